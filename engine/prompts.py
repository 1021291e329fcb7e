"""Prompts that change over a video: `a cat; 0: it walks; 64: it jumps; 6s: it sleeps`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from stt2v.engine.errors import UsageError

# A digit after the colon makes it a ratio or a time of day ("16:9", "10:30"), which is text.
START = re.compile(r"(?:^|;)\s*(-?[0-9]+(?:\.[0-9]+)?)(s?)\s*:(?![0-9])")


@dataclass(frozen=True)
class Segment:
    """A text and where it begins, as written: a number of output frames, or of seconds (unit "s")."""

    number: float
    unit: str
    text: str

    def frame(self, fps: float) -> float:
        """Where it begins, in output frames."""
        return self.number * fps if self.unit else self.number

    def __str__(self) -> str:
        return f"{self.number:.15g}{self.unit}:"


@dataclass(frozen=True)
class PromptPart:
    """A whole prompt and from where it holds: a chunk, the output frame it begins with, and the one asked for."""

    text: str
    chunk: int
    frame: int
    asked: float


@dataclass(frozen=True)
class PromptSchedule:
    """What was written: the text before the first segment, and the segments; without segments a plain prompt."""

    base: str
    segments: tuple[Segment, ...] = ()

    def parts(self, starts: Sequence[int], fps: float, num_frames: int) -> tuple[PromptPart, ...]:
        """The prompts in their order, each beginning with the chunk whose start is nearest, the first with chunk 0.

        starts: the output frame that each chunk begins with; only those inside the video count. The base prompt
        stands before each segment's text, and alone before the first segment.

        Raises: UsageError for times beyond the video, that do not increase or that fall on the same chunk, and when
        nothing is said about the beginning.
        """
        asked = [segment.frame(fps) for segment in self.segments]
        self._check_times(asked, num_frames)
        visible = [start for start in starts if start < num_frames]
        parts = [
            _part(_joined(self.base, segment.text), visible, frame)
            for segment, frame in zip(self.segments, asked, strict=True)
        ]
        if not parts or (self.base and parts[0].chunk > 0):
            parts.insert(0, PromptPart(self.base, 0, 0, 0.0))
        if parts[0].chunk > 0:
            raise UsageError(
                f"no prompt is given before segment {self.segments[0]}, which begins at frame {parts[0].frame};"
                " begin with `0:` or write text before it"
            )
        _check_distinct(parts, visible)
        return tuple(parts)

    def _check_times(self, asked: Sequence[float], num_frames: int) -> None:
        for segment, frame in zip(self.segments, asked, strict=True):
            if frame >= num_frames:
                raise UsageError(
                    f"prompt segment {segment} begins at frame {frame:g}, expected one of the video's frames,"
                    f" 0 to {num_frames - 1}; move it or raise --num-frames"
                )
        for (before, first), (after, second) in pairwise(zip(self.segments, asked, strict=True)):
            if second <= first:
                raise UsageError(
                    f"prompt segment {after} (frame {second:g}) stands after {before} (frame {first:g});"
                    " write segments in the order of their times"
                )


def parse_prompts(text: str) -> PromptSchedule:
    """Read `base; NUMBER: text; NUMBERs: text`: numbers are output frames, with `s` seconds.

    Text without such a start is plain, whatever semicolons and colons it has. Raises UsageError for a segment without
    text and for a number that can be no frame or time.
    """
    heads = list(START.finditer(text))
    if not heads:
        return PromptSchedule(text)
    ends = [*(head.start() for head in heads[1:]), len(text)]
    segments = (
        Segment(float(head[1]), head[2], _bare(text[head.end() : end])) for head, end in zip(heads, ends, strict=True)
    )
    return PromptSchedule(_bare(text[: heads[0].start()]), tuple(map(_checked, segments)))


def up_to(text: str, asked: float, fps: float) -> str:
    """`text` without the segments that begin after output frame `asked`."""
    later = (head.start() for head in START.finditer(text) if Segment(float(head[1]), head[2], "").frame(fps) > asked)
    return text[: next(later, len(text))]


def per_chunk(parts: Sequence[PromptPart], chunks: int) -> tuple[str, ...]:
    """The prompt of each of `chunks` chunks; () where there are no prompts."""
    ends = [*(part.chunk for part in parts[1:]), chunks]
    return tuple(part.text for part, end in zip(parts, ends, strict=False) for _ in range(part.chunk, end))


def _bare(text: str) -> str:
    return text.strip().rstrip("; \t\r\n")


def _checked(segment: Segment) -> Segment:
    if not segment.text:
        raise UsageError(f"prompt segment {segment} has no text; write what is seen from there on, or leave it out")
    if segment.number < 0 or not (segment.unit or segment.number.is_integer()):
        raise UsageError(f"prompt segment {segment} begins nowhere; expected a frame, as in `64:`, or seconds, `2.5s:`")
    return segment


def _part(text: str, starts: Sequence[int], asked: float) -> PromptPart:
    chunk = min(range(len(starts)), key=lambda index: abs(starts[index] - asked))
    return PromptPart(text, chunk, starts[chunk], asked)


def _joined(base: str, text: str) -> str:
    if not base:
        return text
    return f"{base} {text}" if base[-1] in ".,:!?" else f"{base}, {text}"


def _check_distinct(parts: Sequence[PromptPart], starts: Sequence[int]) -> None:
    for first, second in pairwise(parts):
        if first.chunk == second.chunk:
            raise UsageError(
                f"prompts from frame {first.asked:g} and {second.asked:g} both fall on the chunk that begins at frame"
                f" {first.frame}; {_next_start(starts, first.chunk)}"
            )


def _next_start(starts: Sequence[int], chunk: int) -> str:
    return f"the next begins at frame {starts[chunk + 1]}" if chunk + 1 < len(starts) else "no other comes after it"
