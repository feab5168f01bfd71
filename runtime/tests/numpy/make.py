"""Made the numpy files beside it, which the tests in `runtime/src/data/npy.rs` read: `python make.py` (numpy 2.4.6)."""

import numpy as np

grid = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
named = {"c": grid, "fortran": np.asfortranarray(grid), "turned": grid.transpose(2, 0, 1), "truth": grid % 2 == 0, "one": np.int64(7)}
np.savez("plain.npz", **named)
np.savez_compressed("compressed.npz", **named)
np.save("big-endian.npy", grid.astype(">f8"))
np.save("objects.npy", np.array([None, 1], dtype=object), allow_pickle=True)
with open("version-3.npy", "wb") as file:
    np.lib.format.write_array(file, np.asfortranarray(grid), version=(3, 0))
