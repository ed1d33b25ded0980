// The page in a notebook: a frame of its own, which says what is selected, and the model that Python has of it.
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.style.cssText = "width:100%;height:760px;border:1px solid #ccc";
  frame.srcdoc = model.get("page");
  const hear = ({ source, data }) => {
    if (source !== frame.contentWindow || !data || !Array.isArray(data.selected)) return;
    model.set("store", String(data.store));
    model.set("row_ids", data.selected.map(String));
    model.save_changes();
  };
  addEventListener("message", hear);
  el.append(frame);
  return () => removeEventListener("message", hear);
}
export default { render };
