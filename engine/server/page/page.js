// The page: what is asked for, the video that is chosen, and all that there are. It speaks to the API alone.

import { playLive } from "/live.js";

const EXAMPLES = {
  panda: "a panda bouncing on grass",
  rocket: "a rocket moving up and down at sunset",
  fox: "a fox circling around at night",
  donut: "a donut spinning on a pink background",
};
const STAGES = { generate: "Making frames", enhance: "Enhancing", interpolate: "Smoothing motion" };
const WORDS = { queued: "waiting", in_progress: "being made", completed: "done", failed: "failed" };
const STEADY = matchMedia("(prefers-reduced-motion: reduce)").matches;

const $ = (id) => document.getElementById(id);
const videos = new Map(); // id -> video
const cards = new Map(); // id -> card
let models = [];
let chosen = null; // id
let chunk = 0; // of the chosen video: what a take begins with
let shown = {}; // what the stage shows: its state and parts, their elements, and what ends its preview
let picture = null; // file
let oldest = null; // id of the oldest video that was listed

// ---------------------------------------------------------------- elements

/** An element with properties, and children that are elements or text, which is never read as HTML. */
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const size = (bytes) => (bytes > 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.ceil(bytes / 2 ** 20)} MiB`);
const short = (seconds) => `${Number(Number(seconds).toFixed(1))} s`;

function time(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

// ---------------------------------------------------------------- the API

async function api(path, options = {}) {
  if (options.json) {
    options = { method: "POST", ...options, body: JSON.stringify(options.json), headers: { "Content-Type": "application/json" } };
  }
  const answer = await fetch(path, options);
  if (answer.status === 401 && path !== "/login") {
    await login();
    return api(path, options);
  }
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error(body.error.message);
  return body;
}

let asking = null;
function login() {
  asking ??= new Promise((resolve) => {
    $("login").showModal();
    $("login").oncancel = (event) => event.preventDefault();
    $("login").querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await api("/login", { json: { token: $("token").value } });
        $("login").close();
        asking = null;
        resolve();
      } catch (error) {
        $("refused").textContent = error.message;
      }
    };
  });
  return asking;
}

function listen() {
  const events = new EventSource("/v1/events");
  events.onopen = () => {
    $("link").textContent = "";
    if (videos.get(chosen)?.status === "in_progress") shown.state = null; // its preview has ended with the connection
    list();
  };
  events.onerror = () => {
    $("link").textContent = "The server does not answer; trying again …";
    if (events.readyState === EventSource.CLOSED) setTimeout(() => api("/v1/models").then(listen, listen), 2000);
  };
  events.addEventListener("video", (event) => put(JSON.parse(event.data)));
  events.addEventListener("deleted", (event) => drop(JSON.parse(event.data).id));
}

async function list(after = null) {
  const page = await api(`/v1/videos?limit=24${after ? `&after=${after}` : ""}`);
  if (!after) {
    const there = new Set(page.data.map((video) => video.id));
    const known = page.has_more ? [] : [...videos.keys()];
    known.filter((id) => !there.has(id)).forEach(drop);
  }
  page.data.reverse().forEach(put);
  if (after || !oldest || !page.has_more) oldest = page.last_id;
  $("more").hidden = !page.has_more && (after || !oldest || page.last_id === oldest);
  if (!chosen && page.data.length) choose(page.first_id);
}

function put(video) {
  videos.set(video.id, { ...video, heard: performance.now() });
  showCard(video);
  if (video.id === chosen) showStage();
}

function drop(id) {
  videos.delete(id);
  cards.get(id)?.item.remove();
  cards.delete(id);
  $("gallery").hidden = !videos.size;
  if (id === chosen) choose([...videos.values()].sort((a, b) => b.created_at - a.created_at)[0]?.id ?? null);
}

// ---------------------------------------------------------------- what is asked for

const model = () => models.find((each) => each.id === $("model").value);

function wish() {
  const asked = { model: $("model").value, size: $("size").value, seconds: Number($("seconds").value) };
  if ($("prompt").value.trim()) asked.prompt = $("prompt").value.trim();
  return asked;
}

function chooseModel() {
  const its = model();
  $("size").replaceChildren(...its.sizes.map((each) => h("option", { value: each }, each.replace("x", " × "))));
  $("seconds").max = Math.floor(its.longest_seconds * 2) / 2;
  $("seconds").value = Math.min(its.num_frames / its.fps, its.longest_seconds);
  $("picture").hidden = !its.inputs.includes("image");
  showWish();
}

let planning = 0;
function showWish() {
  const asked = wish();
  const its = model();
  $("length").textContent = `${short(asked.seconds)} · ${plural(Math.max(1, Math.round(asked.seconds * its.fps)), "frame")}`;
  const enough = (asked.prompt && its.inputs.includes("prompt")) || (picture && its.inputs.includes("image"));
  $("make").disabled = !enough;
  $("wrong").textContent = "";
  clearTimeout(planning);
  if (enough) planning = setTimeout(() => showPlan(asked), 250);
  else $("plan").textContent = its.inputs.includes("prompt") ? "Write what the video shows." : "Choose the picture that the video begins with.";
}

async function showPlan(asked) {
  try {
    const plan = await api("/v1/plans", { json: { ...asked, picture: picture !== null } });
    if (JSON.stringify(asked) !== JSON.stringify(wish())) return; // an answer that comes too late
    const takes = plan.making_seconds === null ? "" : `, ${plan.measured ? "about" : "perhaps"} ${time(plan.making_seconds)} on this server`;
    $("plan").textContent = `${plural(plan.chunks, "chunk")}, ${plan.steps} steps${takes}; ${size(plan.memory)} of memory, ${size(plan.disk)} of disk.`;
  } catch (error) {
    $("plan").textContent = "";
    $("wrong").textContent = error.message;
  }
}

function setPicture(file) {
  picture = file ?? null;
  if ($("shown").src) URL.revokeObjectURL($("shown").src);
  $("shown").hidden = $("unset").hidden = !picture;
  if (picture) $("shown").src = URL.createObjectURL(picture);
  else $("file").value = "";
  showWish();
}

const drawSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

async function make(event) {
  event.preventDefault();
  if ($("make").disabled) return;
  const form = new FormData();
  const asked = { ...wish(), seed: $("seed").value || drawSeed() };
  for (const [name, value] of Object.entries(asked)) form.append(name, value);
  if (picture && !$("picture").hidden) form.append("input_reference", picture);
  await ask("/v1/videos", { method: "POST", body: form }, $("wrong"));
}

/** Ask for a video, choose it, and say what is wrong at `wrong`. */
async function ask(path, options, wrong) {
  try {
    wrong.textContent = "";
    const video = await api(path, { ...options });
    put(video);
    choose(video.id);
    $("stage").scrollIntoView({ block: "nearest", behavior: STEADY ? "auto" : "smooth" });
  } catch (error) {
    wrong.textContent = error.message;
  }
}

// ---------------------------------------------------------------- all videos

function showCard(video) {
  let card = cards.get(video.id);
  if (!card) {
    card = { face: h("div", { className: "face" }), title: h("b"), note: h("small"), bar: h("progress", { max: 100 }) };
    const text = h("div", { className: "text" }, card.title, card.note, card.bar);
    card.button = h("button", { className: "card", type: "button", onclick: () => { choose(video.id); $("stage").focus(); } }, card.face, text);
    card.item = h("li", {}, card.button);
    cards.set(video.id, card);
    card.item.since = video.created_at; // the newest first; of two in the same second, the one that was heard of later
    $("cards").insertBefore(card.item, [...$("cards").children].find((item) => item.since <= card.item.since) ?? null);
  }
  card.title.textContent = title(video);
  card.note.textContent = `${WORDS[video.status]} · ${short(video.seconds)} · seed ${video.seed}`;
  card.bar.value = video.progress;
  card.bar.hidden = video.status !== "in_progress";
  if (video.status === "completed" && !card.face.firstElementChild) {
    card.face.replaceChildren(h("img", { src: content(video, "thumbnail"), alt: "", loading: "lazy" }));
  } else if (video.status !== "completed") {
    card.face.textContent = video.status === "in_progress" ? `${video.progress} %` : WORDS[video.status];
  }
  $("gallery").hidden = false;
}

const title = (video) => video.prompt ?? "From a picture";
const content = (video, variant = "video") => `/v1/videos/${video.id}/content?variant=${variant}`;

function choose(id) {
  if (chosen) cards.get(chosen)?.button.removeAttribute("aria-current");
  if (id !== chosen) chunk = 0;
  chosen = id;
  cards.get(id)?.button.setAttribute("aria-current", "true");
  showStage();
}

// ---------------------------------------------------------------- the chosen video

function showStage() {
  const video = videos.get(chosen);
  $("about").hidden = !video;
  const state = video ? `${video.id} ${video.status}` : "";
  const parts = state.replace(/queued|in_progress/, "open"); // whose buttons stay while it begins
  if (shown.state !== state) {
    shown.over?.abort();
    shown = { ...(shown.parts === parts && shown), state, over: new AbortController() };
    $("screen").replaceChildren(screen(video));
    if (video && shown.parts !== parts) $("about").replaceChildren(...about(video));
    shown.parts = parts;
  }
  if (video) showProgress(video);
}

function screen(video) {
  if (!video) return h("p", {}, "Your video plays here, already while it is made.");
  const [width, height] = video.size.split("x").map(Number);
  $("screen").style.setProperty("--shape", `${Math.max(width, height * 1.25)} / ${height}`);
  if (video.status === "failed") return h("p", { className: "wrong" }, video.error?.message ?? "It failed.");
  if (video.status === "queued") return h("p", {}, "");
  const player = h("video", { muted: true, playsInline: true, autoplay: !STEADY });
  if (video.status === "completed") {
    Object.assign(player, { src: content(video), controls: true, loop: true });
  } else {
    playLive(player, `/v1/videos/${video.id}/live`, shown.over.signal).catch(() => {});
  }
  return player;
}

function about(video) {
  const parts = [h("h2", {}, title(video))];
  if (video.status === "completed") parts.push(actions(video), h("small", {}, "What is before the chosen chunk stays in a take:"), strip(video), take(video));
  else if (video.status === "failed") parts.push(h("div", { className: "row" }, again(video), remove(video, "Delete")));
  else {
    shown.progress = h("progress", { max: 100, "aria-label": "Progress" });
    shown.note = h("small", { role: "status" });
    parts.push(shown.progress, h("div", { className: "row" }, shown.note, remove(video, "Stop")));
  }
  shown.wrong = h("p", { className: "wrong", role: "alert" });
  return [...parts, shown.wrong, settings(video)];
}

function showProgress(video) {
  if (!shown.progress) return;
  shown.progress.value = video.progress;
  const waited = (performance.now() - video.heard) / 1000;
  const left = video.seconds_left === null ? "" : ` · ${time(video.seconds_left - waited)} left`;
  const place = video.queue_position ? `${plural(video.queue_position, "video")} before it` : "Begins in a moment";
  const words = video.status === "queued" ? place : `${STAGES[video.stage] ?? "Begins"} · ${video.progress} %${left}`;
  if (shown.note.textContent !== words) shown.note.textContent = words;
  if (video.status === "queued") $("screen").firstElementChild.textContent = words;
}

const again = (video) =>
  h("button", { type: "button", onclick: () => ask(`/v1/videos/${video.id}/takes`, { json: {} }, shown.wrong) }, "Again with another seed");

function remove(video, word) {
  let sure = false;
  return h("button", {
    type: "button",
    className: "quiet end",
    onclick: async (event) => {
      const button = event.currentTarget;
      if (sure) return api(`/v1/videos/${video.id}`, { method: "DELETE" }).catch((error) => { shown.wrong.textContent = error.message; });
      sure = true;
      button.textContent = `${word} for good?`;
      setTimeout(() => { sure = false; button.textContent = word; }, 3000);
    },
  }, word);
}

function actions(video) {
  const save = h("a", { className: "button", href: content(video), download: `${video.id}.mp4` }, "Download");
  return h("div", { className: "row" }, again(video), save, remove(video, "Delete"));
}

/** The chunks as a row of choices: what is before the chosen one is kept in a take. */
function strip(video) {
  const ends = [...video.chunks.slice(1), video.num_frames];
  const row = h("div", { className: "strip", role: "radiogroup", "aria-label": "Take from chunk" });
  const pick = (index, focus) => {
    chunk = (index + ends.length) % ends.length;
    [...row.children].forEach((button, at) => {
      button.setAttribute("aria-checked", at === chunk);
      button.tabIndex = at === chunk ? 0 : -1;
    });
    if (focus) row.children[chunk].focus();
    const player = $("screen").querySelector("video");
    if (focus && player) player.currentTime = video.chunks[chunk] / video.fps;
    showTake(video);
  };
  row.append(...video.chunks.map((start, index) => {
    const words = `chunk ${index}, from ${short(start / video.fps)}`;
    const button = h("button", { type: "button", role: "radio", title: words, "aria-label": words, onclick: () => pick(index, true) }, String(index));
    button.style.setProperty("--frames", ends[index] - start);
    return button;
  }));
  row.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); pick(chunk + step, true); }
  };
  queueMicrotask(() => pick(Math.min(chunk, ends.length - 1), false));
  return row;
}

function take(video) {
  shown.prompt = h("input", { "aria-label": "Prompt of the take", maxLength: 4000, value: video.prompt ?? "" });
  shown.take = h("button", { type: "button" });
  shown.take.onclick = () => {
    const prompt = shown.prompt.value.trim();
    ask(`/v1/videos/${video.id}/takes`, { json: { from_chunk: chunk, ...(prompt && { prompt }) } }, shown.wrong);
  };
  shown.prompt.onkeydown = (event) => { if (event.key === "Enter") shown.take.click(); };
  return h("div", { className: "joined take" }, shown.prompt, shown.take);
}

function showTake(video) {
  if (!shown.take) return;
  shown.take.textContent = chunk ? `Take from chunk ${chunk} (${short(video.chunks[chunk] / video.fps)})` : "Take from the beginning";
}

function settings(video) {
  const rows = {
    Seed: video.seed,
    Length: `${short(video.seconds)}, ${plural(video.num_frames, "frame")}`,
    Size: video.size.replace("x", " × "),
    Model: video.model,
    "Made in": video.completed_at && time(video.completed_at - video.started_at),
    "Take of": video.remixed_from_video_id && origin(video),
  };
  const row = ([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value)));
  return h("dl", {}, ...Object.entries(rows).filter(([, value]) => value || value === 0).map(row));
}

function origin(video) {
  const from = videos.get(video.remixed_from_video_id);
  const words = `${from ? title(from) : "a deleted video"}${video.from_chunk ? `, from chunk ${video.from_chunk}` : ""}`;
  return from ? h("a", { href: "#stage", onclick: () => choose(from.id) }, words) : words;
}

// ---------------------------------------------------------------- the beginning

async function begin() {
  models = (await api("/v1/models")).data.filter((each, at) => at === 0 || !each.toy);
  $("model").replaceChildren(...models.map((each) => h("option", { value: each.id, title: each.summary }, each.id)));
  $("prompt").value = EXAMPLES.panda;
  $("examples").append(...Object.entries(EXAMPLES).map(([word, words]) =>
    h("button", { type: "button", title: words, onclick: () => { $("prompt").value = words; showWish(); } }, word)));
  chooseModel();
  $("model").onchange = chooseModel;
  $("wish").oninput = (event) => { if (event.target !== $("model") && event.target !== $("file")) showWish(); };
  $("wish").onsubmit = make;
  $("draw").onclick = () => { $("seed").value = drawSeed(); };
  $("file").onchange = () => setPicture($("file").files[0]);
  $("unset").onclick = () => setPicture(null);
  $("more").onclick = () => list(oldest);
  const area = $("picture");
  area.ondragover = () => area.classList.add("over");
  area.ondragleave = area.ondrop = () => area.classList.remove("over");
  document.onpaste = (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file && !area.hidden) setPicture(file);
  };
  document.onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("wish").requestSubmit();
    if (event.key === "/" && !event.target.closest("input, textarea, select")) { event.preventDefault(); $("prompt").focus(); }
  };
  setInterval(() => { const video = videos.get(chosen); if (video) showProgress(video); }, 1000);
  listen();
}

begin().catch((error) => { $("link").textContent = error.message; });
