"""Made the Parquet files beside it, which the tests in `runtime/src/data/parquet` read: `python make.py` (pyarrow 26.0.1)."""

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = range(100)
table = pa.table(
    {
        "i32": pa.array([i * 3 - 50 for i in ROWS], pa.int32()),
        "i64": pa.array([i * i * 1_000_003 for i in ROWS], pa.int64()),
        "f32": pa.array([i / 8 for i in ROWS], pa.float32()),
        "f64": pa.array([None if i % 7 == 3 else i * 0.1 for i in ROWS], pa.float64()),
        "truth": pa.array([i % 3 == 0 for i in ROWS], pa.bool_()),
        "text": pa.array([None if i % 4 == 1 else f"word {i % 5}" for i in ROWS], pa.string()),
        "u32": pa.array([4_000_000_000 - i for i in ROWS], pa.uint32()),
        "u8": pa.array([i * 2 for i in ROWS], pa.uint8()),
    }
)
pq.write_table(table, "snappy.parquet")
pq.write_table(table, "groups-zstd-2.parquet", row_group_size=30, compression="zstd", data_page_version="2.0", data_page_size=64)
pq.write_table(table, "gzip-plain.parquet", compression="gzip", use_dictionary=False, row_group_size=64)
delta = {name: "DELTA_BINARY_PACKED" for name in ["i32", "i64", "u32", "u8"]}
encodings = delta | {"f32": "BYTE_STREAM_SPLIT", "f64": "BYTE_STREAM_SPLIT", "text": "DELTA_LENGTH_BYTE_ARRAY", "truth": "RLE"}
pq.write_table(table, "delta.parquet", compression="none", use_dictionary=False, column_encoding=encodings, version="2.6")
other = pa.table(
    {
        "whole": pa.array([1, None, 3], pa.int64()),
        "list": pa.array([[1], [], [2, 3]], pa.list_(pa.int64())),
        "after": pa.array([1.5, 2.5, None], pa.float64()),
        "huge": pa.array([1, 2, 2**63], pa.uint64()),
    }
)
pq.write_table(other, "other.parquet")
pq.write_table(other.select(["after"]), "brotli.parquet", compression="brotli")
