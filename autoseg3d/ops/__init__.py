"""Operations on voxel arrays that know nothing of files, plans or networks."""
