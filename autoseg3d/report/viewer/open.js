// Opens the viewer of a case when its button is pressed; one at a time, since browsers allow few drawing contexts.
(() => {
  "use strict";
  let shown = null;

  const part = (viewer, name) => viewer.querySelector(name);
  const file = (viewer, index) => document.getElementById(`${viewer.dataset.id}-${index}`).textContent;

  // The look-up table of a label map: colours and names by value.
  function table(labels) {
    const byte = (label, place) => parseInt(label.colour.slice(place, place + 2), 16);
    const all = [{ value: 0, name: "", colour: "#000000" }, ...labels];
    return {
      R: all.map((label) => byte(label, 1)),
      G: all.map((label) => byte(label, 3)),
      B: all.map((label) => byte(label, 5)),
      A: all.map((label) => (label.value ? 255 : 0)),
      I: all.map((label) => label.value),
      labels: all.map((label) => label.name),
    };
  }

  function place(mm) {
    const names = ["LR", "PA", "IS"];
    return Array.from(mm).slice(0, 3).map((v, i) => `${names[i][v < 0 ? 0 : 1]} ${Math.abs(v).toFixed(0)}`).join("  ") + " mm";
  }

  function close() {
    if (!shown) return;
    const { viewer, nv } = shown;
    const lost = nv.gl && nv.gl.getExtension("WEBGL_lose_context");
    part(viewer, ".screen").replaceChildren();
    part(viewer, ".stage").hidden = true;
    part(viewer, ".open").textContent = "Open in 3D";
    if (nv.cleanup) nv.cleanup();
    if (lost) lost.loseContext();
    shown = null;
  }

  async function open(viewer) {
    const facts = JSON.parse(viewer.dataset.facts);
    const names = new Map(facts.labels.map((label) => [label.value, label.name]));
    const canvas = document.createElement("canvas");
    const where = part(viewer, ".where");
    part(viewer, ".screen").replaceChildren(canvas);
    part(viewer, ".stage").hidden = false;
    const nv = new niivue.Niivue({
      isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarForceRender: true, isResizeCanvas: true,
      dragAndDropEnabled: false, logLevel: "error", backColor: [0.06, 0.06, 0.06, 1], crosshairColor: [1, 1, 1, 0.5], crosshairWidth: 0.3,
      multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
      onLocationChange: (at) => {
        const layer = at.values[1 + chosen()];
        where.textContent = place(at.mm) + (layer && names.get(Math.round(layer.value)) ? ` · ${names.get(Math.round(layer.value))}` : "");
      },
    });
    const chosen = () => {
      const radio = part(viewer, "input[type=radio]:checked");
      return radio ? Number(radio.value) : 0;
    };
    const opacities = () => {
      const wanted = Number(part(viewer, ".opacity").value) / 100;
      facts.layers.forEach((_, i) => nv.setOpacity(i + 1, i === chosen() ? wanted : 0));
    };
    shown = { viewer, nv };
    await nv.attachToCanvas(canvas);
    nv.addVolume(await niivue.NVImage.loadFromBase64({ base64: file(viewer, 0), name: "scan.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255 }));
    for (const [i] of facts.layers.entries()) {
      const layer = await niivue.NVImage.loadFromBase64({ base64: file(viewer, i + 1), name: "labels.nii.gz", opacity: i ? 0 : 0.5 });
      layer.setColormapLabel(table(facts.labels));
      nv.addVolume(layer);
    }
    nv.setSliceType(nv.sliceTypeMultiplanar);
    opacities();
    part(viewer, ".controls").oninput = opacities;
    part(viewer, ".open").textContent = "Close";
    viewer.dataset.ready = "yes";
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".viewer .open");
    if (!button) return;
    const viewer = button.closest(".viewer");
    const again = shown && shown.viewer === viewer;
    close();
    if (again) return;
    try {
      await open(viewer);
    } catch (error) {
      close();
      part(viewer, ".note").textContent = `This browser cannot draw it: ${error.message}. The picture above shows the same.`;
    }
  });
})();
