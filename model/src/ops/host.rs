//! CPU tensors as slices: the one place where a tensor's memory is touched directly.

use burn::backend::{Flex, tensor::FloatTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::real::Real;

/// A contiguous CPU tensor held for reading. Shares the tensor's memory; copies only a strided one.
pub struct HostTensor(FloatTensor<Flex>);

impl HostTensor {
    /// `None` when the tensor does not live on the CPU.
    pub fn of<const D: usize>(tensor: &Tensor<D>) -> Option<Self> {
        let primitive = tensor.clone().try_into_primitive::<Flex>().ok()?;
        Some(Self(primitive.to_contiguous()))
    }

    /// A tensor whose operation has already found its inputs on the CPU.
    ///
    /// # Panics
    /// When it is not.
    pub fn held<const D: usize>(tensor: &Tensor<D>) -> Self {
        Self::of(tensor).expect("checked to be on the CPU")
    }

    /// The values in row-major order.
    ///
    /// # Panics
    /// When `F` is not the tensor's dtype.
    pub fn slice<F: Real>(&self) -> &[F] {
        self.0
            .as_slice()
            .expect("a contiguous tensor of this dtype")
    }
}

/// Lets `f` read the values of a tensor of `f32`, row-major: where they lie on the CPU, a copy elsewhere.
///
/// # Panics
/// When the tensor is not of `f32`.
pub fn with_f32<const D: usize, R>(tensor: &Tensor<D>, f: impl FnOnce(&[f32]) -> R) -> R {
    match HostTensor::of(tensor) {
        Some(host) => f(host.slice()),
        None => {
            let values: Vec<f32> = (tensor.clone().into_data())
                .try_to_vec()
                .expect("a tensor of f32");
            f(&values)
        }
    }
}

/// Lets `f` change a CPU tensor's values; without a copy when nobody else holds them.
///
/// # Panics
/// When the tensor is not on the CPU or `F` is not its dtype.
pub fn map_in_place<F: Real, const D: usize>(
    tensor: Tensor<D>,
    f: impl FnOnce(&mut [F]),
) -> Tensor<D> {
    let mut held = {
        // Held here only: a second holder would make `storage_mut` copy.
        let given = tensor
            .try_into_primitive::<Flex>()
            .expect("a tensor on the CPU");
        given.to_contiguous()
    };
    let (start, end) = held
        .layout()
        .contiguous_offsets()
        .expect("to_contiguous gives a contiguous tensor");
    f(&mut held.storage_mut::<F>()[start..end]);
    Tensor::from_primitive::<Flex>(held)
}

/// Whether the fused CPU loops apply.
pub fn is_host<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.clone().try_into_primitive::<Flex>().is_ok()
}

/// Wraps freshly computed values.
pub fn from_values<F: Real, const D: usize>(values: Vec<F>, shape: [usize; D]) -> Tensor<D> {
    let device = burn::tensor::Device::flex();
    Tensor::from_data(
        burn::tensor::TensorData::new(values, shape),
        (&device, F::dtype()),
    )
}

/// `N` arrays of `count` values, written `chunk` values at a time in parallel: `write` gets the number of the chunk and
/// the same stretch of each array. They hold zeros by then, put there by the task, not by one thread beforehand.
pub(crate) fn write_chunks<F: Real, const N: usize>(
    count: usize,
    chunk: usize,
    write: impl Fn(usize, [&mut [F]; N]) + Sync,
) -> [Vec<F>; N] {
    let mut arrays: [Vec<F>; N] = std::array::from_fn(|_| Vec::with_capacity(count));
    let starts = arrays
        .each_mut()
        .map(|array| SharedOutput::at_start(array.as_mut_ptr()));
    (0..count.div_ceil(chunk))
        .into_par_iter()
        .for_each(|number| {
            let first = number * chunk;
            let length = chunk.min(count - first);
            let parts = starts.map(|start| {
                // Safety: every task has its own stretch of each array, and zero bytes are a number.
                unsafe {
                    let part = start.at(first);
                    part.write_bytes(0, length);
                    std::slice::from_raw_parts_mut(part, length)
                }
            });
            write(number, parts);
        });
    for array in &mut arrays {
        // Safety: the tasks have written all of it.
        unsafe { array.set_len(count) };
    }
    arrays
}

/// An array of `count` values that `write` fills through its pointer.
///
/// # Safety
/// `write` writes all of them.
pub(crate) unsafe fn written<F: Real>(count: usize, write: impl FnOnce(*mut F)) -> Vec<F> {
    let mut values = Vec::with_capacity(count);
    write(values.as_mut_ptr());
    unsafe { values.set_len(count) };
    values
}

/// A pointer that tasks writing to disjoint places share.
#[derive(Clone, Copy)]
pub(crate) struct SharedOutput<F>(*mut F);

// Safety: every user of `SharedOutput` writes places that no other task reads or writes.
unsafe impl<F> Send for SharedOutput<F> {}
unsafe impl<F> Sync for SharedOutput<F> {}

impl<F> SharedOutput<F> {
    pub(crate) fn new(values: &mut [F]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The part from `offset`.
    ///
    /// # Safety
    /// `offset` lies inside the slice or at its end.
    pub(crate) unsafe fn from(self, offset: usize) -> Self {
        Self(unsafe { self.0.add(offset) })
    }

    /// # Safety
    /// The range lies inside the slice, and as long as the result lives nobody else touches its elements.
    pub(crate) unsafe fn slice<'a>(self, offset: usize, length: usize) -> &'a mut [F] {
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), length) }
    }

    pub(crate) fn at_start(values: *mut F) -> Self {
        Self(values)
    }

    /// # Safety
    /// `offset` lies inside the slice, and no two tasks touch the same element through the pointer.
    pub(crate) unsafe fn at(&self, offset: usize) -> *mut F {
        unsafe { self.0.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::random;

    #[test]
    fn chunks_are_written_at_their_places() {
        let [a, b] = write_chunks::<f32, 2>(7, 3, |number, [a, b]| {
            a.fill(number as f32);
            b[0] = 1.0;
        });
        assert_eq!(a, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0]);
        assert_eq!(b, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn values_change_where_they_lie_unless_somebody_else_holds_them() {
        let address = |tensor: &Tensor<2>| HostTensor::held(tensor).slice::<f64>().as_ptr();
        let tensor = random([3, 5], 1);
        let before = address(&tensor);
        let tensor = map_in_place::<f64, 2>(tensor, |values| values[0] = 7.0);
        assert_eq!(address(&tensor), before);
        let changed = map_in_place::<f64, 2>(tensor.clone(), |values| values[0] = 8.0);
        assert_ne!(address(&changed), before);
        assert_eq!(HostTensor::held(&tensor).slice::<f64>()[0], 7.0);
    }
}
