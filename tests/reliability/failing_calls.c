/* Loaded before the C library: lets the n-th write, sync or rename below one folder fail, and counts them.

   armed by failing_calls_arm(folder, kind, n, error) in a process whose calls are to fail; kind 0 write, 1 fsync, 2 rename.
   error -1 makes a write short instead of failing: half of it is written, which every program must expect. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE, FSYNC, RENAME };

static char folder[PATH_MAX];
static int armed_kind = -1, failure;
static long left;
long failing_calls_seen[3];

void failing_calls_arm(const char *path, int kind, long n, int error) {
    snprintf(folder, sizeof folder, "%s/", path);
    armed_kind = kind, left = n, failure = error;
    memset(failing_calls_seen, 0, sizeof failing_calls_seen);
}

/* Whether this call is the one that fails. */
static int due(int kind, const char *path) {
    if (armed_kind < 0 || strncmp(path, folder, strlen(folder)) != 0)
        return 0;
    long seen = __atomic_add_fetch(&failing_calls_seen[kind], 1, __ATOMIC_SEQ_CST);
    return kind == armed_kind && seen == left;
}

static int due_fd(int kind, int fd) {
    char link[64], path[PATH_MAX];
    if (armed_kind < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 2);
    if (length <= 0)
        return 0;
    path[length] = '/', path[length + 1] = 0; /* the folder itself is synced too */
    return due(kind, path);
}

static int due_path(int kind, const char *path) {
    char whole[PATH_MAX];
    if (armed_kind < 0)
        return 0;
    if (path[0] != '/' && getcwd(whole, sizeof whole - strlen(path) - 2)) {
        strcat(whole, "/");
        return due(kind, strcat(whole, path));
    }
    return due(kind, path);
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

static ssize_t written(int fd, const void *data, size_t count) {
    if (!due_fd(WRITE, fd))
        return REAL(ssize_t, "write", int, const void *, size_t)(fd, data, count);
    if (failure == -1)
        return REAL(ssize_t, "write", int, const void *, size_t)(fd, data, count / 2 + 1 < count ? count / 2 + 1 : count);
    errno = failure;
    return -1;
}

ssize_t write(int fd, const void *data, size_t count) { return written(fd, data, count); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!due_fd(WRITE, fd) || failure == -1)
        return REAL(ssize_t, "writev", int, const struct iovec *, int)(fd, parts, count);
    errno = failure;
    return -1;
}

int fsync(int fd) {
    if (!due_fd(FSYNC, fd) || failure == -1)
        return REAL(int, "fsync", int)(fd);
    errno = failure;
    return -1;
}

int rename(const char *from, const char *to) {
    if (!due_path(RENAME, to) || failure == -1)
        return REAL(int, "rename", const char *, const char *)(from, to);
    errno = failure;
    return -1;
}
