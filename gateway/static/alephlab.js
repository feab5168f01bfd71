// The only script. Pages work without it; it adds copying.
for (const b of document.querySelectorAll("button[data-copy]")) {
  b.addEventListener("click", async () => {
    const text = document.getElementById(b.dataset.copy).textContent.trim();
    const said = b.querySelector("span");
    try { await navigator.clipboard.writeText(text); said.textContent = "Copied"; }
    catch { said.textContent = "Press Ctrl+C"; getSelection().selectAllChildren(document.getElementById(b.dataset.copy)); }
    setTimeout(() => { said.textContent = "Copy"; }, 1600);
  });
}
