// Values on hover: every point of a drawing carries them in its aria-label.
const tip = document.getElementById("tip");
const reach = 18;
for (const drawing of document.querySelectorAll(".panel svg")) {
  const points = [...drawing.querySelectorAll(".mark-symbol path[aria-label]")];
  drawing.addEventListener("pointermove", (event) => {
    let best = null, least = reach;
    for (const point of points) {
      const box = point.getBoundingClientRect();
      const away = Math.hypot(event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2);
      if (away < least) { best = point; least = away; }
    }
    tip.hidden = !best;
    if (!best) return;
    tip.textContent = best.getAttribute("aria-label");
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
  });
  drawing.addEventListener("pointerleave", () => { tip.hidden = true; });
}
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("figure ~ details")) part.open = true; });
