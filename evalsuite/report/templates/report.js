"use strict";
for (const block of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  const said = document.createElement("span");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy " + block.dataset.copy);
  said.className = "hidden";
  said.setAttribute("role", "status");
  const copyBySelection = () => {
    const selection = window.getSelection();
    selection.selectAllChildren(block);
    const done = document.execCommand("copy");
    selection.removeAllRanges();
    if (!done) throw new Error("the browser refused");
  };
  const tell = (word) => {
    button.textContent = said.textContent = word;
    window.setTimeout(() => { button.textContent = "Copy"; said.textContent = ""; }, 2000);
  };
  button.addEventListener("click", async () => {
    try {
      if (navigator.clipboard) await navigator.clipboard.writeText(block.textContent);
      else copyBySelection();
      tell("Copied");
    } catch {
      try { copyBySelection(); tell("Copied"); } catch { tell("Select and copy"); }
    }
  });
  block.before(button);
  block.after(said);
}
