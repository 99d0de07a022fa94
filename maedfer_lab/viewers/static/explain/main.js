// Puts the page together. `maedfer` on the console holds its parts.

const bytesOfText = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function main() {
  const content = JSON.parse(document.getElementById("content").textContent);
  const colours = Object.fromEntries(Object.entries(content.colours).map(([name, text]) => [name, bytesOfText(text)]));
  const method = new Method(content.method);
  const engine = new Engine(method);
  const finder = new Finder(engine);
  const clips = await Promise.all(content.clips.map(async ({ name, sprite }) => [name, await unpack(bytesOfText(sprite), method.size, method.frames)]));
  const kernel = new Kernel(method, engine, colours, content);
  const how = new How(method, content.model, colours);
  how.motionOf = (clip) => kernel.motion(clip);
  kernel.on("result", (result) => how.show(result, kernel.clips.get(result.clip)));
  globalThis.maedfer = { content, method, engine, finder, kernel, how, macs, recompute };
  const take = startPlay(kernel, clips, content.face);
  globalThis.maedferPlayer({ model: kernel, el: document.getElementById("player") });
  // A page makes pictures alone, and is a page already.
  for (const kind of ["HTML", "GIF", "MP4"]) document.querySelector(`#player [title=${kind}]`).remove();
  kernel.clip = clips[0][0];
  document.getElementById("do-reset").click();
  const play = () => {
    kernel.off("result", play);
    setTimeout(() => document.querySelector("#player .maedfer-play").click(), 300);
  };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) kernel.on("result", play);
  maedfer.square = startOwn(method, content, finder, take);
  startCost(content.paper);
  startLedger(JSON.parse(new TextDecoder().decode(await part("claims"))));
}

main().catch((error) => {
  document.getElementById("verdict").textContent = `This page does not work in this browser: ${error.message}. It needs one of 2023 or later.`;
});
