//! A launch: addresses of numbers, a kernel by name, a shape of threads.
#![expect(unsafe_code, reason = "kernels are given addresses")]

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, WrapErr, kernels};
use candle_core::{DType, Layout, Result, Shape, bail};

/// PTX of a file of `runtime/kernels-ptx/kernels`.
pub(super) struct Kernels {
    name: &'static str,
    text: OnceLock<Option<String>>,
}

pub(super) static ELEMENTS: Kernels = Kernels::new("elements");
pub(super) static ROWS: Kernels = Kernels::new("rows");

/// What [`super::emulate`] has in the place of PTX.
const EMULATED: &str = "\n.version none\n";

impl Kernels {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            text: OnceLock::new(),
        }
    }

    fn text(&self) -> Option<&str> {
        self.text.get_or_init(|| kernels::own(self.name)).as_deref()
    }

    pub(super) fn are_there(&self) -> bool {
        self.text().is_some()
    }

    /// For the tests, whose driver runs kernels by itself.
    pub(super) fn emulate(&self) {
        self.text.get_or_init(|| Some(EMULATED.to_owned()));
    }
}

/// Numbers that a kernel reads or writes.
pub(super) struct Operand<'a> {
    address: u64,
    /// Says afterwards, where candle keeps account of it, that they were in use.
    _used: SyncOnDrop<'a>,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Word {
    Whole(u64),
    Number(f32),
}

impl Word {
    /// The address of nothing.
    pub(super) const NOTHING: Self = Self::Whole(0);
}

impl From<&Operand<'_>> for Word {
    fn from(operand: &Operand<'_>) -> Self {
        Self::Whole(operand.address)
    }
}

impl From<usize> for Word {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<u64> for Word {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<bool> for Word {
    fn from(yes: bool) -> Self {
        Self::Whole(u64::from(yes))
    }
}

impl From<f32> for Word {
    fn from(number: f32) -> Self {
        Self::Number(number)
    }
}

/// How many threads there are, and how they are grouped.
#[derive(Clone, Copy)]
pub(super) struct Threads {
    blocks: (usize, usize),
    of_block: (u32, u32),
}

/// Threads of a block, where nothing says otherwise.
const BLOCK: u32 = 256;
/// More blocks than that keep no GPU busier: each takes more elements then.
const BLOCKS_MAX: usize = 8192;
/// Columns of a block of `norm_columns` and `column_sums`, and its rows at once; both as in `rows.cu`.
pub(super) const COLUMNS: usize = 32;
const LINES: u32 = 8;

impl Threads {
    /// For so many elements, of which each thread takes some.
    pub(super) fn elements(count: usize) -> Self {
        let blocks = count.div_ceil(4 * BLOCK as usize).clamp(1, BLOCKS_MAX);
        Self {
            blocks: (blocks, 1),
            of_block: (BLOCK, 1),
        }
    }

    /// For rows, by threads of which there are more where a row is wider: narrow ones have 32, and eight share a block.
    pub(super) fn rows(count: usize, width: usize) -> Self {
        let (of_row, rows) = match width {
            0..=256 => (32, 8),
            257..=1024 => (128, 1),
            1025..=4096 => (256, 1),
            _ => (512, 1),
        };
        Self {
            blocks: (count.div_ceil(rows as usize), 1),
            of_block: (of_row, rows),
        }
    }

    /// For columns, in so many parts of the rows.
    pub(super) fn columns(width: usize, parts: usize) -> Self {
        Self {
            blocks: (width.div_ceil(COLUMNS), parts),
            of_block: (32, LINES),
        }
    }

    /// One block.
    pub(super) fn one_block() -> Self {
        Self {
            blocks: (1, 1),
            of_block: (1024, 1),
        }
    }

    fn config(self) -> Result<LaunchConfig> {
        let blocks = |count: usize| u32::try_from(count).map_err(candle_core::Error::wrap);
        Ok(LaunchConfig {
            grid_dim: (blocks(self.blocks.0)?, blocks(self.blocks.1)?, 1),
            block_dim: (self.of_block.0, self.of_block.1, 1),
            shared_mem_bytes: 0,
        })
    }
}

/// Launches on the stream of a device.
pub(super) struct Launcher {
    device: CudaDevice,
    stream: Arc<CudaStream>,
}

impl Launcher {
    pub(super) fn new(device: &CudaDevice) -> Self {
        Self {
            device: device.clone(),
            stream: device.cuda_stream(),
        }
    }

    /// A tensor's numbers, to be read.
    ///
    /// # Errors
    /// They do not lie in row-major order.
    pub(super) fn read<'a>(&'a self, storage: &'a CudaStorage, layout: &Layout) -> Result<Operand<'a>> {
        let stream = &*self.stream;
        let (address, used) = match &storage.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr(stream),
            CudaStorageSlice::BF16(slice) => slice.device_ptr(stream),
            CudaStorageSlice::F16(slice) => slice.device_ptr(stream),
            CudaStorageSlice::I64(slice) => slice.device_ptr(stream),
            _ => bail!("no kernel of ours is for this dtype"),
        };
        Operand::at(address, used, storage, layout)
    }

    /// A tensor's numbers, to be written.
    ///
    /// # Errors
    /// They do not lie in row-major order.
    pub(super) fn write<'a>(
        &'a self,
        storage: &'a mut CudaStorage,
        layout: Option<&Layout>,
    ) -> Result<Operand<'a>> {
        let stream = &*self.stream;
        let bytes = layout.map_or(Ok(0), |layout| first_byte(storage, layout))?;
        let (address, used) = match &mut storage.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr_mut(stream),
            CudaStorageSlice::BF16(slice) => slice.device_ptr_mut(stream),
            CudaStorageSlice::F16(slice) => slice.device_ptr_mut(stream),
            _ => bail!("no kernel of ours is for this dtype"),
        };
        Ok(Operand {
            address: address + bytes,
            _used: used,
        })
    }

    /// Memory for so many numbers, which a kernel writes before anything reads it.
    pub(super) fn fresh(&self, count: usize, dtype: DType) -> Result<CudaStorage> {
        // SAFETY: the numbers are of a plain dtype, and each is written by the kernel that this is made for.
        unsafe { self.device.alloc_uninit(&Shape::from(count), dtype) }
    }

    /// Runs `NAME_DTYPE` of a file.
    pub(super) fn run(
        &self,
        file: &Kernels,
        (name, dtype): (&str, DType),
        threads: Threads,
        words: &[Word],
    ) -> Result<()> {
        let Some(text) = file.text() else {
            bail!("this build holds no kernels of its own");
        };
        let name = format!("{name}_{}", dtype.as_str());
        let module = match file.name {
            "elements" => "alephlab_elements",
            _ => "alephlab_rows",
        };
        let function = self.device.get_or_load_custom_func(&name, module, text)?;
        let mut launch = function.builder();
        for word in words {
            match word {
                Word::Whole(number) => launch.arg(number),
                Word::Number(number) => launch.arg(number),
            };
        }
        // SAFETY: each caller gives the arguments that the kernel of that name has, as many numbers at each address as the
        // sizes among them say, and no two that overlap; the tests run every kernel so, with memory that ends where the numbers
        // do.
        unsafe { launch.launch(threads.config()?) }.w()?;
        Ok(())
    }
}

impl<'a> Operand<'a> {
    fn at(address: u64, used: SyncOnDrop<'a>, storage: &CudaStorage, layout: &Layout) -> Result<Self> {
        Ok(Self {
            address: address + first_byte(storage, layout)?,
            _used: used,
        })
    }
}

/// Where a tensor begins in its storage.
fn first_byte(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    use candle_core::backend::BackendStorage;
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok((start * storage.dtype().size_in_bytes()) as u64),
        None => bail!("a kernel takes tensors that lie in row-major order"),
    }
}
