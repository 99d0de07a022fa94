// A place to drop a video on. The file goes to the kernel piece by piece, each after the one before
// was taken, so that no host's limit on the size of a message is met and progress can be shown.
//
// To Python: {name, size, offset} with a piece of the file, or {path} that was typed. From Python:
// the trait `progress`: {name, size, received, text}.

const PIECE = 2 ** 20;

function render({ model, el }) {
  const make = (tag, attributes = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  };
  const input = make("input", { type: "file", accept: "video/*,image/*", hidden: true });
  const choose = make("button", { type: "button", textContent: "choose a file" });
  const bar = make("progress", { max: 1, hidden: true });
  const said = make("span");
  said.setAttribute("role", "status");
  const zone = make("div", { className: "maedfer-drop" }, model.get("label"), " ", choose, input, bar, said);
  if (model.get("typable")) {
    const path = make("input", { type: "text", placeholder: "or type a path", ariaLabel: "path", size: 30 });
    path.addEventListener("change", () => model.send({ path: path.value }));
    path.addEventListener("keydown", (event) => event.stopPropagation());
    choose.after(" ", path);
  }
  let file = null;
  const send = async (offset) => {
    const current = file;
    const piece = await file.slice(offset, offset + PIECE).arrayBuffer();
    if (current === file) model.send({ name: file.name, size: file.size, offset }, undefined, [piece]);
  };
  const begin = (chosen) => {
    if (!chosen) return;
    file = chosen;
    send(0);
  };
  const progress = () => {
    const { name, size, received, text } = model.get("progress");
    bar.hidden = !size || received >= size;
    bar.value = size ? received / size : 0;
    said.textContent = text;
    if (file && name === file.name && received < size) send(received);
  };
  choose.addEventListener("click", () => input.click());
  input.addEventListener("change", () => begin(input.files[0]));
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      event.stopPropagation();
      zone.classList.toggle("maedfer-over", name === "dragenter" || name === "dragover");
      if (name === "drop") begin(event.dataTransfer.files[0]);
    });
  }
  model.on("change:progress", progress);
  progress();
  el.append(zone);
  return () => model.off("change:progress", progress);
}

export default { render };
