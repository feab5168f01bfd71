// Our script. Pages work without it; it adds copying, the wallet's signature, and figures that go on by themselves. Lists that
// follow what is typed are htmx's.
document.addEventListener("click", async (event) => {
  const b = event.target.closest("button[data-copy]");
  if (!b) return;
  const from = document.getElementById(b.dataset.copy);
  const said = b.querySelector("span");
  try { await navigator.clipboard.writeText(from.textContent.trim()); said.textContent = "Copied"; }
  catch { said.textContent = "Press Ctrl+C"; getSelection().selectAllChildren(from); }
  setTimeout(() => { said.textContent = "Copy"; }, 1600);
});
// What htmx was refused the browser asks for itself, and shows the answer. A list whose request was lost stays, and says so.
const refused = (event) => location.assign(event.detail.pathInfo.finalRequestPath);
document.addEventListener("htmx:responseError", refused);
const unanswered = document.getElementById("unanswered");
document.addEventListener("htmx:sendError", (event) => { if (unanswered) unanswered.hidden = false; else refused(event); });
const filters = document.getElementById("filters");
document.getElementById("again")?.addEventListener("click", () => filters.dispatchEvent(new Event("change")));
// Search and filters are two forms, and each has the other's values as they were when the list was last answered. What counts
// is what both say now.
document.addEventListener("htmx:configRequest", (event) => {
  if (!event.detail.elt.matches("#filters, form[role=search]")) return;
  const { formData } = event.detail;
  for (const name of new Set(formData.keys())) formData.delete(name);
  new FormData(filters).forEach((value, name) => formData.append(name, value));
  for (const id of ["q", "sort"]) {
    const { value } = document.getElementById(id);
    if (value) formData.set(id, value); else formData.delete(id);
  }
});
// Who presses with a key held wants another tab or window, which is the browser's to open.
document.addEventListener("click", (event) => {
  if ((event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) && event.target.closest("a[hx-get]")) event.stopPropagation();
}, true);
// Choices that were unfolded stay so.
let unfolded = [];
document.addEventListener("htmx:beforeSwap", () => { unfolded = [...document.querySelectorAll("details.more[open]")].map((one) => one.id); });
// Who pressed something that is not in the new list goes on at the list.
document.addEventListener("htmx:afterSwap", () => {
  if (unanswered) unanswered.hidden = true;
  for (const id of unfolded) document.getElementById(id)?.setAttribute("open", "");
  if (document.activeElement === document.body) document.getElementById("found")?.focus({ preventScroll: true });
});
// The token of a share's link: it comes in the fragment, which is sent to nobody, is put into the commands of the page, and
// leaves the address bar.
const places = document.querySelectorAll("[data-token]");
if (places.length) {
  const take = () => {
    const token = new URLSearchParams(location.hash.slice(1)).get("t");
    if (token === null) return;
    history.replaceState(null, "", location.pathname + location.search);
    if (!/^hf_[A-Za-z0-9]{20,80}$/.test(token)) return;
    places.forEach((place) => { place.textContent = token; });
    for (const id of ["token-here", "token-box"]) document.getElementById(id).hidden = false;
    document.getElementById("token-needed").hidden = true;
  };
  take();
  addEventListener("hashchange", take);
}
// The wallet in the browser: asked on a press, never on load. It shows the text and asks its owner.
for (const b of document.querySelectorAll("button[data-wallet]")) {
  const form = document.getElementById(b.dataset.wallet);
  const { ask = "/v1/sign-in", not = "you are not signed in" } = b.dataset;
  const says = document.getElementById("wallet-says");
  const say = (text) => { says.hidden = false; says.lastElementChild.textContent = text; };
  b.hidden = false;
  b.addEventListener("click", async () => {
    if (!window.ethereum) {
      say("No wallet answered in this browser. Unlock it and press again, or sign a text elsewhere.");
      return;
    }
    b.disabled = true;
    try {
      const [address] = await window.ethereum.request({ method: "eth_requestAccounts" });
      const answer = await fetch(ask + "?address=" + encodeURIComponent(address));
      const asked = await answer.json();
      if (!answer.ok) throw new Error(asked.message);
      say("Look at your wallet: it shows the text and asks you to sign. It costs nothing and moves nothing.");
      const signature = await window.ethereum.request({ method: "personal_sign", params: [asked.message, address] });
      Object.entries({ address, nonce: asked.nonce, signature }).forEach(([name, value]) => { form.elements[name].value = value; });
      form.submit();
    } catch (error) {
      // 4001: its owner said no (EIP-1193).
      say(error.code === 4001 ? `You did not sign, so ${not}.` : `${not[0].toUpperCase()}${not.slice(1)}: ${error.message || "the wallet gave no reason"}.`);
      b.disabled = false;
    }
  });
}
// What is measured goes on by itself while the page is looked at. Where rows come or go the whole list is put in, unless somebody
// is in it with the keyboard.
const live = document.getElementById("live");
if (live) {
  const parts = (page) => new Map([...page.querySelectorAll("[data-live]")].map((part) => [part.dataset.live, part]));
  const refresh = async () => {
    if (document.hidden) return;
    const answer = await fetch(location.pathname);
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const [old, now] = [parts(document), parts(page)];
    if (old.size === now.size && [...now.keys()].every((name) => old.has(name))) {
      now.forEach((part, name) => old.get(name).replaceChildren(...part.childNodes));
    } else if (!live.contains(document.activeElement)) {
      live.replaceChildren(...page.getElementById("live").childNodes);
    }
  };
  // A gateway that is away is asked again; the page keeps what it has.
  setInterval(() => refresh().catch(() => {}), 4000);
}
