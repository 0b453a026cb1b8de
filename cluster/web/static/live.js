// Keeps a page as it is on disk: asks for it again every few seconds, and exchanges the parts that differ.
// Without this file the pages work, and stand still.

const EVERY = 5000;
const now = document.getElementById("now");
let busy = false;

/** What a person has ticked, opened or stands on is no part of what the server knows: it is carried over. */
function carryOver(old, fresh) {
  for (const box of old.querySelectorAll("input[type=checkbox]")) {
    const other = fresh.querySelector(`input[value="${CSS.escape(box.value)}"]`);
    if (other) other.toggleAttribute("checked", box.checked);
    box.toggleAttribute("checked", box.checked);
  }
  for (const details of old.querySelectorAll("details[open][id]")) {
    fresh.querySelector(`#${CSS.escape(details.id)}`)?.setAttribute("open", "");
  }
}

function placeOf(element, within) {
  return [...within.querySelectorAll("a, button, input, select, summary, [tabindex]")].indexOf(element);
}

function exchange(old, fresh) {
  const selection = getSelection();
  if (!selection.isCollapsed && old.contains(selection.anchorNode)) return; // somebody copies it
  carryOver(old, fresh);
  if (old.innerHTML === fresh.innerHTML) return;
  const place = placeOf(document.activeElement, old);
  const log = old.querySelector(".log");
  const atEnd = log && log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  old.replaceChildren(...fresh.childNodes);
  if (place >= 0) old.querySelectorAll("a, button, input, select, summary, [tabindex]")[place]?.focus({ preventScroll: true });
  if (atEnd) toEnd();
}

function toEnd() {
  for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
}

export async function refresh() {
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(location.pathname + location.search, { signal: AbortSignal.timeout(30000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!answer.ok) throw new Error(page.body.textContent.slice(0, 200));
    for (const old of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(old.id);
      if (fresh) exchange(old, fresh);
    }
    say("");
    document.dispatchEvent(new Event("refreshed"));
  } catch (error) {
    say(`No answer (${error.message.trim() || "eyespot web has ended"}); this is what was known before. Trying again.`);
  } finally {
    busy = false;
  }
}

function say(words) {
  if (now.textContent !== words) now.textContent = words;
  now.classList.toggle("warn", words !== "");
}

setInterval(() => document.hidden || refresh(), EVERY);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
toEnd();

// The list: what is typed finds at once, and stands in the address.
const filter = document.getElementById("filter");
if (filter) {
  filter.querySelector("button").hidden = true;
  let later = 0;
  const show = () => {
    const words = new URLSearchParams([...new FormData(filter)].filter(([, value]) => value));
    history.replaceState(null, "", words.size ? `?${words}` : location.pathname);
    refresh();
  };
  filter.addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(show, 150);
  });
  filter.addEventListener("submit", (event) => {
    event.preventDefault();
    show();
  });
}

const compare = document.getElementById("compare");
if (compare) {
  const button = document.getElementById("compare-button");
  const ticked = document.getElementById("ticked");
  const most = Number(ticked.textContent.match(/\d+/g).at(-1));
  const count = () => {
    const number = compare.querySelectorAll("input:checked").length;
    button.disabled = number < 1 || number > most;
    ticked.textContent = number ? `${number} ticked${number > most ? `, at most ${most}` : ""}` : `tick up to ${most} runs`;
  };
  compare.addEventListener("change", count);
  document.addEventListener("refreshed", count);
  addEventListener("pageshow", count);
  count();
}
