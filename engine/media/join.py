"""Joining segments that were encoded one by one into one MP4, without encoding them again."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stt2v.engine.media.video import REORDERED, frame_rate
from stt2v.engine.media.whole import unwritable, whole_file
from stt2v.engine.paths import for_ffmpeg

if TYPE_CHECKING:
    from av import Packet
    from av.video.stream import VideoStream


def join_videos(segments: Sequence[Path], output: Path, fps: float, metadata: Mapping[str, str]) -> None:
    """Write the pictures of `segments`, one after the other and `fps` a second, to the MP4 `output`.

    `VideoWriter` has made the segments, all alike. The MP4 appears under its name only when it is whole. Raises
    OutputError.
    """
    import av

    with whole_file(output) as temporary:
        try:
            with av.open(for_ffmpeg(temporary), "w", options={"movflags": "+faststart"}) as container:
                container.metadata.update(metadata)
                with av.open(for_ffmpeg(segments[0])) as first:
                    stream = container.add_stream_from_template(first.streams.video[0])
                for packet in _packets(segments, fps):
                    packet.stream = stream
                    container.mux(packet)
        except av.FFmpegError as error:
            raise unwritable(output, error) from error


def _packets(segments: Sequence[Path], fps: float) -> Iterator["Packet[VideoStream]"]:
    """The packets of all segments, with the times that they have in the whole.

    A segment of very few frames has no pictures that wait for later ones, so its own decoding times would not follow
    those of the segment before: they are counted anew.
    """
    import av

    shown = number = 0
    for path in segments:
        with av.open(for_ffmpeg(path)) as segment:
            stream = segment.streams.video[0]
            assert stream.time_base is not None
            tick = round(1 / (frame_rate(fps) * stream.time_base))  # a picture's time in the stream's unit
            for packet in segment.demux(stream):
                if packet.size and packet.pts is not None:
                    packet.pts += shown * tick
                    packet.dts = (number - REORDERED) * tick
                    number += 1
                    yield packet
            shown += stream.frames
