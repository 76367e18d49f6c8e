"""What was asked of the endpoints and what they answered.

    <workspace>/telemetry/endpoint=E/deployment=D/
        signature.json               the model's signature: it fixes the type of every column
        live-<pid>.jsonl             the server appends one line per request
        closed-<time_ns>.jsonl       the server is done with this one; time_ns is when it closed it
        date=YYYY-MM-DD/<time_ns>.parquet                the same rows, columnar
        date=YYYY-MM-DD/<first>-<last>.parquet           many of those in one
        aggregates/<time_ns>.parquet                     the counts of the Parquet file of that name, made once (see `aggregates.py`)

One row per request.  A column `x` of the model's input is a list column `in.x` (of the signature's type: `"001"` stays text,
moments stay ISO text), one entry per scored row, and an output `y` is `out.y`; so a drift check on a million requests reads
just the columns it compares, and a question about traffic reads no payload at all.  In a line, many numbers are bytes in base64
(`column_bytes.py`), which become columns as any others when the payload is first read; requests that came in quick succession share a
line (`blocks.py`) and are a row each for every reader.  Requests that were refused or failed keep
their payload as JSON text in `raw_inputs` and `raw_outputs`, because it need not fit those types.

No row is lost or counted twice, whenever a process is killed, and no file changes under a reader's hands.  A Parquet file
carries the stem of the lines it was made from; while both stand, readers take the Parquet file and the next `compact()`
deletes the other.  A merged file carries the first and the last stem it covers; a Parquet file within such a range is a
leftover.  Lines are deleted before their Parquet file may be merged, so lines within a range are late, never leftover.
"""

from .aggregates import SAMPLED
from .compaction import Compaction, compact
from .copies import Agreed, Counted, Pair, agreed, by_hour, count, counted, hourly, pairs, together
from .extremes import extremes
from .files import asked_since
from .histograms import Asked, Segment, Sought, Windowed, columns, histograms, shapes, types
from .queries import Captured, captured, inputs, misfits, outputs, refused, requests, totals, traffic
from .rows import bounded, within_bounds

__all__ = [
    "requests", "refused", "misfits", "inputs", "outputs", "traffic", "totals", "captured", "asked_since", "compact", "Compaction", "Captured",
    "count", "counted", "Counted", "hourly", "by_hour", "together", "pairs", "Pair", "agreed", "Agreed", "histograms", "columns", "shapes", "Asked", "Segment",
    "Sought", "Windowed", "types", "extremes", "bounded", "within_bounds", "SAMPLED",
]  # fmt: skip
