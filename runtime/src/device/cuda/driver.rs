//! The few calls of the driver that candle and cudarc have no safe way for.
#![expect(unsafe_code, reason = "functions of the driver")]

use candle_core::CudaDevice;
use cudarc::driver::sys::{self, CUdevice_attribute, CUmemPool_attribute};
use cudarc::driver::{DeviceRepr, DriverError, PinnedHostSlice, ValidAsZeroBits, result};

type Result<T> = std::result::Result<T, DriverError>;

/// The CUDA version that the driver supports, such as 13000.
pub(super) fn version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

/// Memory of a device in bytes.
pub(super) fn total(device: sys::CUdevice) -> Result<u64> {
    // SAFETY: a device that the driver named.
    Ok(unsafe { result::device::total_mem(device) }? as u64)
}

/// A number that describes a device.
pub(super) fn attribute(device: sys::CUdevice, which: CUdevice_attribute) -> Result<i32> {
    // SAFETY: a device that the driver named.
    unsafe { result::device::get_attribute(device, which) }
}

/// No events for tensors.
pub(super) fn stop_tracking(cuda: &CudaDevice) {
    // SAFETY: the runtime has one stream for each device, and orders a second one itself should it make one: what tracking
    // is for does not happen.
    unsafe { cuda.disable_event_tracking() };
}

/// Has the driver keep memory that is freed, for the next tensor.
pub(super) fn keep_freed(cuda: &CudaDevice) -> Result<()> {
    let mut all = u64::MAX;
    let which = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: a pool of an open device; this attribute is a number of 64 bits.
    unsafe { result::mem_pool::set_attribute(pool_of(cuda)?, which, (&raw mut all).cast()) }
}

/// Gives memory back that is kept and not used.
pub(super) fn trim(cuda: &CudaDevice) -> Result<()> {
    cuda.cuda_stream().context().bind_to_thread()?;
    // SAFETY: a pool of an open device.
    unsafe { result::mem_pool::trim_to(pool_of(cuda)?, 0) }
}

/// Bytes that tensors have, and bytes that the pool has taken from the system.
pub(super) fn pool(cuda: &CudaDevice) -> Result<(u64, u64)> {
    let ask = |which| {
        let mut bytes = 0_u64;
        // SAFETY: a pool of an open device; these attributes are numbers of 64 bits.
        unsafe { result::mem_pool::get_attribute(pool_of(cuda)?, which, (&raw mut bytes).cast()) }?;
        Ok(bytes)
    };
    Ok((
        ask(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?,
        ask(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?,
    ))
}

/// Free bytes and all bytes.
pub(super) fn memory(cuda: &CudaDevice) -> Result<(u64, u64)> {
    let (free, total) = cuda.cuda_stream().context().mem_get_info()?;
    Ok((free as u64, total as u64))
}

/// Memory of the host that the system never moves, for so many numbers.
pub(super) fn page_locked<T: DeviceRepr + ValidAsZeroBits>(
    cuda: &CudaDevice,
    count: usize,
) -> Result<PinnedHostSlice<T>> {
    let stream = cuda.cuda_stream();
    // SAFETY: whatever is in it is a number; it is written before it is read.
    unsafe { stream.context().alloc_pinned(count) }
}

fn pool_of(cuda: &CudaDevice) -> Result<sys::CUmemoryPool> {
    // SAFETY: an open device.
    unsafe { result::device::get_default_mem_pool(cuda.cuda_stream().context().cu_device()) }
}
