//! Where the values of the losses add up.

use burn::tensor::Tensor;

/// One sum a listed loss. On a device it stays there until it is read, so that no step waits for it.
#[derive(Clone, Debug)]
pub enum LossSums {
    Host(Vec<f64>),
    /// `f32`, `[losses]`.
    Device(Box<Tensor<1>>),
}

impl LossSums {
    /// `count` sums for values that come from the device of `like`.
    pub fn zeros(count: usize, like: &Tensor<2>) -> Self {
        #[cfg(feature = "cube")]
        if model::ops::cube::runs(like) {
            let options = (&like.device(), burn::tensor::DType::F32);
            return Self::Device(Box::new(Tensor::zeros([count], options)));
        }
        let _ = like;
        Self::Host(vec![0.0; count])
    }

    /// Adds another's sums, of the same device.
    pub fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Host(sums), Self::Host(others)) => {
                for (sum, value) in sums.iter_mut().zip(others) {
                    *sum += value;
                }
            }
            (Self::Device(sums), Self::Device(others)) => **sums = *sums.clone() + *others,
            _ => unreachable!("the losses of one step live on one device"),
        }
    }

    /// The sums on the host; waits for the device.
    pub fn read(&self) -> Vec<f64> {
        match self {
            Self::Host(sums) => sums.clone(),
            Self::Device(sums) => {
                let sums: Vec<f32> = sums.to_data().try_to_vec().expect("sums are f32");
                sums.into_iter().map(f64::from).collect()
            }
        }
    }
}
