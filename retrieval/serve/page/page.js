"use strict";

const by = (id) => document.getElementById(id);
const NUMBER = new Intl.NumberFormat("en");
let current = {}; // the query that is shown
let running = null; // the request under way; a newer one ends it
let shownPicture = null; // the object URL of the query's picture

// A query is {text}, {row}, {file} or {}, which asks for a sample.
async function show(query, { remember = true, focus = false } = {}) {
  running?.abort();
  const mine = (running = new AbortController());
  current = query;
  if (remember) history.pushState(null, "", address(query));
  showQuery(query);
  by("status").textContent = "Searching";
  by("problem").hidden = true;
  by("hits").ariaBusy = "true"; // the old hits are dimmed
  try {
    const answer = await ask(query, mine.signal);
    showHits(answer);
  } catch (error) {
    if (mine.signal.aborted) return;
    showHits({ hits: [] });
    by("status").textContent = "";
    by("problem").textContent = error.message;
    by("problem").hidden = false;
  }
  if (focus) by("title").focus();
}

function ask(query, signal) {
  const k = `k=${by("k").value}`;
  if (query.file) return fetchJson(`search?${k}`, { signal, method: "POST", body: query.file });
  if ("row" in query) return fetchJson(`search?row=${query.row}&${k}`, { signal });
  if (query.text) return fetchJson(`search?text=${encodeURIComponent(query.text)}&${k}`, { signal });
  return fetchJson(`sample?${k}`, { signal });
}

async function fetchJson(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `clipfleet serve` still running?");
  }
  const text = await response.text();
  if (response.ok) return JSON.parse(text);
  let reason = text;
  try {
    reason = JSON.parse(text).error;
  } catch {
    // Refusals of the server itself are plain text.
  }
  throw new Error(reason || `The server answered with status ${response.status}.`);
}

// The address bar holds a text or a row, so that "back" and a bookmark work; never a file.
function address(query) {
  if ("row" in query) return `?row=${query.row}`;
  return query.text ? `?text=${encodeURIComponent(query.text)}` : "?";
}

function queryOfAddress() {
  const given = new URLSearchParams(location.search);
  if (given.has("row")) return { row: Number(given.get("row")) };
  return given.get("text") ? { text: given.get("text") } : {};
}

function showQuery(query) {
  if (shownPicture) URL.revokeObjectURL(shownPicture);
  shownPicture = query.file ? URL.createObjectURL(query.file) : null;
  by("queried").hidden = true;
  by("queried").src = shownPicture ?? ("row" in query ? `picture/${query.row}` : "icon.svg");
  by("text").value = query.text ?? "";
  if (!query.file) by("file").value = "";
  let title = "A sample of the index";
  if (query.text) title = `Results for “${query.text}”`;
  if (query.file) title = `Results for the picture ${query.file.name}`;
  if ("row" in query) title = `More like row ${query.row}`;
  by("title").textContent = title;
  by("queried").onload = () => (by("queried").hidden = !query.file && !("row" in query));
}

function showHits(answer) {
  if (answer.like) by("title").textContent = `More like ${answer.like.text ?? answer.like.id}`;
  by("hits").classList.toggle("texts", answer.hits.some((hit) => hit.uri === null));
  by("hits").replaceChildren(...answer.hits.map(hitElement));
  by("hits").ariaBusy = "false";
  const scores = answer.hits.map((hit) => hit.score).filter((score) => score !== null);
  const slider = by("least");
  by("filter").hidden = scores.length < 2;
  if (scores.length) {
    slider.min = Math.floor(Math.min(...scores) * 1000) / 1000;
    slider.max = Math.ceil(Math.max(...scores) * 1000) / 1000;
    slider.value = slider.min;
  }
  let times = "";
  if (scores.length) {
    const encoded = answer.like ? "" : `encoded in ${milliseconds(answer.encode_s)}, `;
    times = ` Query ${encoded}searched in ${milliseconds(answer.search_s)}.`;
  }
  by("status").dataset.times = times;
  filter();
}

function milliseconds(seconds) {
  return `${(seconds * 1000).toFixed(1)} ms`;
}

function hitElement(hit) {
  const element = by("hit").content.firstElementChild.cloneNode(true);
  const part = (name) => element.querySelector(name);
  const link = part(".picture");
  if (hit.uri === null) {
    link.remove();
    part(".text").textContent = hit.text;
  } else {
    const image = part("img");
    image.onerror = () => showWhy(hit, link, part(".text"));
    image.alt = hit.id;
    image.src = `picture/${hit.row}`;
    link.href = /^https?:/i.test(hit.uri) ? hit.uri : `file/${hit.row}`;
    link.title = hit.uri;
  }
  part(".id").textContent = hit.id;
  if (hit.score === null) part(".score").remove();
  else part(".score").textContent = `Score ${hit.score.toFixed(3)}`;
  element.dataset.score = hit.score ?? "";
  const like = part(".like");
  like.setAttribute("aria-label", `More like ${hit.id}`);
  like.onclick = () => show({ row: hit.row }, { focus: true });
  return element;
}

// An image element does not say why it failed: ask again for the reason.
async function showWhy(hit, link, place) {
  try {
    await fetchJson(`picture/${hit.row}`);
  } catch (error) {
    place.textContent = error.message;
  }
  link.firstElementChild.remove();
  link.textContent = "Open the file";
}

function filter() {
  const least = Number(by("least").value);
  by("least-shown").textContent = least.toFixed(3);
  const hits = [...by("hits").children];
  for (const hit of hits) {
    hit.hidden = hit.dataset.score !== "" && Number(hit.dataset.score) < least;
  }
  const shown = hits.filter((hit) => !hit.hidden).length;
  const count = shown === hits.length ? `${shown} shown.` : `${shown} of ${hits.length} shown.`;
  by("status").textContent = count + by("status").dataset.times;
}

function takePicture(files) {
  const file = [...files].find((one) => one.type.startsWith("image/")) ?? files[0];
  if (file && !by("file").disabled) show({ file });
}

function showAbout(about) {
  document.title = `${about.name} – clipfleet`;
  by("about").textContent =
    `${about.name}: ${NUMBER.format(about.rows)} ${about.content}, ${about.kind} index, ${about.model}`;
  for (const id of ["text", "search", "file"]) by(id).disabled = !about.has_model;
  by("limits").hidden = about.has_model;
}

by("query").addEventListener("submit", (event) => {
  event.preventDefault();
  show({ text: by("text").value.trim() });
});
by("k").addEventListener("change", () => show(current, { remember: false }));
by("file").addEventListener("change", (event) => takePicture(event.target.files));
by("least").addEventListener("input", filter);
addEventListener("popstate", () => show(queryOfAddress(), { remember: false }));
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) takePicture(event.clipboardData.files);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  takePicture(event.dataTransfer.files);
});

fetchJson("about").then(showAbout, (error) => (by("about").textContent = error.message));
show(queryOfAddress(), { remember: false });
