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
  for (const plot of drawing.querySelectorAll(".role-scope, .role-frame")) names(plot);
}

// A name at the end of a line stands behind its mark, which has the line's colour: a click shows that line alone.
function names(plot) {
  const own = [...plot.querySelectorAll(":scope > g > g > .mark-symbol, :scope > g > g > .mark-text, :scope > g > g > .mark-line, :scope > g > g > .mark-area")]
    .concat([...plot.querySelectorAll(":scope > g > g > .mark-group.role-scope.pathgroup path")]);
  const colour = (mark) => {
    const path = mark.matches("path") ? mark : mark.querySelector("path");
    const said = (name) => path?.getAttribute(name);
    return [said("fill"), said("stroke")].find((one) => one && !["none", "transparent"].includes(one));
  };
  const labels = own.filter((mark, i) => mark.matches(".mark-text") && own[i - 1]?.matches(".mark-symbol"));
  for (const label of labels) {
    const wanted = colour(own[own.indexOf(label) - 1]);
    label.classList.add("named");
    for (const [key, value] of [["role", "button"], ["tabindex", "0"], ["aria-pressed", "false"]]) label.setAttribute(key, value);
    const show = () => {
      const alone = label.getAttribute("aria-pressed") !== "true";
      for (const other of labels) other.setAttribute("aria-pressed", String(alone && other === label));
      const parts = own.flatMap((mark) => mark.matches("path") ? [mark] : [...mark.querySelectorAll("path")]);
      for (const part of parts) part.classList.toggle("away", alone && colour(part) !== wanted);
      for (const other of labels) other.classList.toggle("away", alone && other !== label);
    };
    label.addEventListener("click", show);
    label.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(); } });
  }
}
// Of a picture of a few pixels each is shown.
for (const picture of document.querySelectorAll(".samples img")) {
  picture.decode().then(() => picture.classList.toggle("tiny", picture.naturalWidth < 32), () => {});
}
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("figure ~ details")) part.open = true; });
