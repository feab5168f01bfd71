//! Dropout whose mask is made of a seed and the place of each element: nothing is stored for the backward pass, and the mask
//! is the same with any number of threads, and on a GPU.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};

use crate::chunks::{self, GRAIN};
use crate::cuda;
use crate::lanes::{Bits, Lanes};
use crate::loops::LANES_MAX;
use crate::values::{Path, for_kernel, path, rounded, values};

/// Zeroes each element with probability `p` and multiplies the others by 1 / (1 - p).
///
/// `x` has any shape and a floating-point dtype; the result has both of them. Which elements are zeroed is decided by `seed`
/// and their row-major place: give another seed for each call. The gradient goes through, with the same mask.
///
/// # Errors
/// `p` isn't in `0.0..1.0`, or `x` holds whole numbers.
pub fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        bail!("dropout takes a probability from 0 to below 1, not {p}");
    }
    let op = Dropout { p, seed };
    if p > 0.0 && cuda::takes(x) {
        return for_kernel(x)?.apply_op1(op);
    }
    match path("dropout", x)? {
        _ if p == 0.0 => Ok(x.clone()),
        Path::Fused => x.apply_op1(op),
        Path::Widened => dropout(&x.to_dtype(DType::F32)?, p, seed)?.to_dtype(x.dtype()),
        Path::Composed => {
            let ones = vec![1.0; x.elem_count()];
            let mask = Tensor::from_vec(op.masked(&ones), x.shape(), x.device())?;
            x * mask.to_dtype(x.dtype())?
        }
    }
}

struct Dropout {
    p: f32,
    seed: u64,
}

impl Dropout {
    /// What elements that stay are multiplied by.
    fn scale(&self) -> f32 {
        rounded(1.0 / f64::from(1.0 - self.p))
    }

    fn masked(&self, x: &[f32]) -> Vec<f32> {
        let mask = Mask {
            // Of 2^31, so that the comparison is the same for signed and unsigned.
            dropped: of_2_31(self.p),
            scale: self.scale(),
            key: mixed(self.seed),
        };
        chunks::build(x.len(), GRAIN, |start, to| {
            // 2^32 places are told apart by their low half; each 2^32 has a key of its own.
            let key = mask.key ^ mixed((start as u64) >> 32);
            let mask = Mask { key, ..mask };
            Arch::new().dispatch(Masking {
                mask,
                start: low_half(start),
                from: &x[start..start + to.len()],
                to,
            });
        })
    }
}

/// The probability as a whole number of 2^31sts.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 0 to 1, and rounded down"
)]
fn of_2_31(p: f32) -> u32 {
    (f64::from(p) * f64::from(1u32 << 31)) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "the other half is in the key")]
#[inline(always)]
fn low_half(place: usize) -> u32 {
    place as u32
}

/// The finaliser of SplitMix64, cut to its high half.
fn mixed(seed: u64) -> u32 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

#[derive(Clone, Copy)]
struct Mask {
    dropped: u32,
    scale: f32,
    key: u32,
}

impl Mask {
    /// The place under the key through C. Wellons' `lowbias32` twice, with the key between, so that masks of two seeds are not
    /// one mask moved.
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, place: Bits<S>, x: Lanes<S>) -> Lanes<S> {
        let hash = lowbias(lowbias(place ^ self.key) + self.key.rotate_left(16));
        let keep = simd.greater_than_or_equal_u32s((hash >> 1).values(), simd.splat_u32s(self.dropped));
        let kept = simd.select_f32s(keep, (x * self.scale).values, simd.splat_f32s(0.0));
        Lanes::new(simd, kept)
    }
}

#[inline(always)]
fn lowbias<S: Simd>(x: Bits<S>) -> Bits<S> {
    let x = (x ^ (x >> 16)) * 0x7feb_352d;
    let x = (x ^ (x >> 15)) * 0x846c_a68b;
    x ^ (x >> 16)
}

struct Masking<'a> {
    mask: Mask,
    start: u32,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Masking<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            mask,
            start,
            from,
            to,
        } = self;
        let counted: [u32; LANES_MAX] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let mut place = Bits::new(simd, simd.partial_load_u32s(&counted[..S::U32_LANES])) + start;
        let (heads, tail) = S::as_simd_f32s(from);
        let (to_heads, to_tail) = S::as_mut_simd_f32s(to);
        for (to, from) in to_heads.iter_mut().zip(heads) {
            *to = mask.of(simd, place, Lanes::new(simd, *from)).values;
            place = place + low_half(S::U32_LANES);
        }
        if !tail.is_empty() {
            let last = Lanes::new(simd, simd.partial_load_f32s(tail));
            simd.partial_store_f32s(to_tail, mask.of(simd, place, last).values);
        }
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        Ok((CpuStorage::F32(self.masked(&x)), layout.shape().clone()))
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        cuda::dropout(storage, layout, self.seed, of_2_31(self.p), self.scale())
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        for_kernel(grad)?.apply_op1_no_bwd(self).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_makes_the_same_mask() {
        let x: Vec<f32> = (0..77).map(|place| 1.0 + place as f32).collect();
        let masked = |dispatch: &dyn Fn(Masking<'_>)| {
            let mut to = vec![-1.0; x.len()];
            let mask = Mask {
                dropped: of_2_31(0.4),
                scale: 1.5,
                key: 7,
            };
            dispatch(Masking {
                mask,
                start: u32::MAX - 20,
                from: &x,
                to: &mut to,
            });
            to
        };
        let want = masked(&|op| pulp::Scalar::new().vectorize(op));
        assert!(want.contains(&0.0) && want.iter().any(|x| *x > 0.0));
        assert_eq!(masked(&|op| Arch::new().dispatch(op)), want);
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            assert_eq!(masked(&|op| Simd::vectorize(simd, op)), want);
        }
    }
}
