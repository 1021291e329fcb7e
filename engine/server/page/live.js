// The preview of a video in the making: a fragmented MP4 that is read while it grows, and played again and again.

const Source = self.ManagedMediaSource ?? self.MediaSource; // iPhones have the former only

/** Plays the preview at `url` in `video` until `signal` aborts; resolves when there is nothing more to come. */
export async function playLive(video, url, signal) {
  if (!Source) return;
  const answer = await fetch(url, { signal });
  if (!answer.ok) return;
  const reader = answer.body.getReader();
  const head = await readHead(reader);
  if (!head) return;
  const source = new Source();
  video.disableRemotePlayback = true;
  video.src = URL.createObjectURL(source);
  await once(source, "sourceopen");
  URL.revokeObjectURL(video.src);
  const buffer = source.addSourceBuffer(`video/mp4; codecs="${codec(head)}"`);
  const again = () => { if (video.currentTime > 0.1) { video.currentTime = 0; video.play().catch(() => {}); } };
  video.addEventListener("waiting", again, { signal });
  video.addEventListener("ended", again, { signal });
  for (let block = head; block; block = (await reader.read()).value) {
    buffer.appendBuffer(block);
    await once(buffer, "updateend");
    if (video.paused) video.play().catch(() => {});
  }
  if (source.readyState === "open") source.endOfStream();
}

/** Everything up to where the codec is told; null when the stream ends before. */
async function readHead(reader) {
  let head = new Uint8Array();
  while (place(head) < 0 || head.length < place(head) + 8) {
    const { done, value } = await reader.read();
    if (done) return null;
    head = Uint8Array.from([...head, ...value]);
  }
  return head;
}

/** Where the box avcC begins, which holds profile and level of H.264. */
function place(bytes) {
  for (let at = 0; at + 4 <= bytes.length; at++) {
    if (bytes[at] === 0x61 && bytes[at + 1] === 0x76 && bytes[at + 2] === 0x63 && bytes[at + 3] === 0x43) return at;
  }
  return -1;
}

function codec(head) {
  const told = head.slice(place(head) + 5, place(head) + 8);
  return `avc1.${[...told].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

const once = (target, event) => new Promise((resolve) => target.addEventListener(event, resolve, { once: true }));
