//! Batches on their way to a GPU: in memory that the system never moves, the GPU fetches them by itself while the cell goes on.
//!
//! A copy from other memory goes through the driver's own buffer, and waits for all that was begun before. [`stage`] is called by
//! the threads that make batches, [`Staged::place`] by the cell, on the one stream of the device.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::CudaDType;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, Device, DeviceLocation, Layout, Result, Shape, Storage, Tensor,
};
use cudarc::driver::{DeviceRepr, PinnedHostSlice, ValidAsZeroBits};

use super::driver;

/// Buffers of one kind that are kept for the next batches: as many as a loader has ahead, twice.
const KEPT_MAX: usize = 16;
/// Kinds that are kept: of a training its batches and its last, smaller one.
const KINDS_MAX: usize = 8;

/// GPU, type and length.
type Kind = (DeviceLocation, std::any::TypeId, usize);

type Buffers = HashMap<Kind, Vec<Box<dyn Any + Send>>>;

/// Buffers that no batch has. Memory of this kind is slow to get.
static KEPT: Mutex<Option<Buffers>> = Mutex::new(None);

fn kept() -> MutexGuard<'static, Option<Buffers>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tensor in page-locked memory.
pub(crate) struct Staged {
    shape: Shape,
    cuda: CudaDevice,
    place: Place,
}

/// Copies it to the GPU.
type Place = Box<dyn FnOnce(&CudaDevice) -> Result<CudaStorage> + Send>;

impl std::fmt::Debug for Staged {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Staged {:?}", self.shape)
    }
}

/// Copies a tensor of the CPU into such memory; none where that is no use, or cannot be had: then it goes the common way.
pub(crate) fn stage(tensor: &Tensor, device: &Device) -> Option<Staged> {
    let Device::Cuda(cuda) = device else {
        return None;
    };
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        return None;
    };
    let place = match storage {
        CpuStorage::F32(all) => filled(all, layout, cuda),
        CpuStorage::U8(all) => filled(all, layout, cuda),
        CpuStorage::U32(all) => filled(all, layout, cuda),
        CpuStorage::I64(all) => filled(all, layout, cuda),
        _ => None,
    }?;
    Some(Staged {
        shape: layout.shape().clone(),
        cuda: cuda.clone(),
        place,
    })
}

fn filled<T>(all: &[T], layout: &Layout, cuda: &CudaDevice) -> Option<Place>
where
    T: CudaDType + DeviceRepr + ValidAsZeroBits + Copy + Send + 'static,
{
    let (start, end) = layout.contiguous_offsets()?;
    if start == end {
        return None;
    }
    let kind = (
        Device::Cuda(cuda.clone()).location(),
        std::any::TypeId::of::<T>(),
        end - start,
    );
    let mut buffer = match taken::<T>(&kind) {
        Some(buffer) => buffer,
        None => driver::page_locked::<T>(cuda, end - start).ok()?,
    };
    // Waits until the last batch that was in it has been copied.
    buffer.as_mut_slice().ok()?.copy_from_slice(&all[start..end]);
    Some(Box::new(move |cuda: &CudaDevice| {
        let there = cuda.clone_htod(&buffer)?;
        put_back(kind, buffer);
        Ok(CudaStorage::wrap_cuda_slice(there, cuda.clone()))
    }))
}

fn taken<T: 'static>(kind: &Kind) -> Option<PinnedHostSlice<T>> {
    let buffer = kept().as_mut()?.get_mut(kind)?.pop()?;
    buffer.downcast().ok().map(|buffer| *buffer)
}

fn put_back<T: Send + 'static>(kind: Kind, buffer: PinnedHostSlice<T>) {
    let mut kept = kept();
    let kinds = kept.get_or_insert_default();
    if kinds.len() >= KINDS_MAX && !kinds.contains_key(&kind) {
        // Those of another training.
        kinds.clear();
    }
    let of_kind = kinds.entry(kind).or_default();
    if of_kind.len() < KEPT_MAX {
        of_kind.push(Box::new(buffer));
    }
}

impl Staged {
    /// Begins the copy to the GPU, behind what was begun before.
    pub(crate) fn place(self) -> Result<Tensor> {
        let storage = (self.place)(&self.cuda)?;
        Ok(Tensor::from_storage(
            Storage::Cuda(storage),
            self.shape,
            BackpropOp::none(),
            false,
        ))
    }
}
