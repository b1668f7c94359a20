// Filters the images of a page by group, class, and kind of error, and their boxes by class and score.
"use strict";
{
  const panel = document.getElementById("image-filters");
  if (panel) {
    const control = (name) => panel.querySelector(`[name="${name}"]`);
    const [group, label, kind, own, score, texts] = ["group", "label", "kind", "own", "score", "texts"].map(control);
    const thresholds = panel.dataset.thresholds.split(" ").map(Number);
    const figures = [...document.querySelectorAll("figure.image")];
    const status = document.getElementById("image-count");
    const update = () => {
      let count = 0;
      for (const figure of figures) {
        const kinds = new Set();
        let hasLabel = label.value === "";
        for (const box of figure.querySelectorAll(".box")) {
          const isDetection = box.classList.contains("detection");
          const threshold = own.checked ? thresholds[box.dataset.label] : Number(score.value);
          const isAbove = Number(box.dataset.score) > threshold;
          const isLabel = label.value === "" || label.value === box.dataset.label;
          const isMissed = !isDetection && !isAbove && box.dataset.kind === "object";
          box.classList.toggle("off", !isLabel || (isDetection && !isAbove));
          if (!isDetection) box.classList.toggle("missed", isMissed);
          if (!isLabel || (isDetection && !isAbove)) continue;
          hasLabel = true;
          kinds.add(isMissed ? "missed" : box.dataset.kind);
        }
        const inGroup = group.value === "" || figure.dataset.groups.split("|").includes(group.value);
        figure.hidden = !(inGroup && hasLabel && (kind.value === "" || kinds.has(kind.value)));
        figure.classList.toggle("no-texts", !texts.checked);
        count += figure.hidden ? 0 : 1;
      }
      status.textContent = `${count} of ${figures.length} images`;
      control("shown").textContent = Number(score.value).toFixed(2);
    };
    score.addEventListener("input", () => { own.checked = false; });
    panel.addEventListener("input", update);
    panel.hidden = false;
    update();
  }
}
