use half::{bf16, f16};
use lighterage_checkpoint::{Checkpoint, Tensor};
use lighterage_shape::DType;

use crate::align::CROP_SIDE;
use crate::layers::{BatchNorm, Convolution, Planes, linear, means, prelu};
use crate::{Embedding, Error, Photo, Result};

/// Side of the last planes: the crop halved four times.
const LAST_SIDE: usize = 7;
/// How often the side is halved.
const HALVINGS: usize = 4;

/// `ArcFace`'s IR-SE network under facexlib's names, of any depth and widths: an aligned crop in, an identity out.
///
/// facexlib's file has 24 units of the widths 64, 128, 256 and 512 (`recognition_arcface_ir_se50.pth`). Depth and widths are read off the tensors' shapes. The side
/// is halved four times, from 112 to 7: by the first unit and wherever the width changes. Where those are fewer than four, the shapes do not tell
/// which units halve as well, and the earliest that follow another halving one are taken, a stage of one unit before it.
#[derive(Debug)]
pub struct ArcFace {
    input: (Convolution, BatchNorm, Vec<f32>),
    units: Vec<Unit>,
    output: Output,
}

#[derive(Debug)]
struct Unit {
    stride: usize,
    shortcut: Option<(Convolution, BatchNorm)>,
    norm: BatchNorm,
    first: Convolution,
    slopes: Vec<f32>,
    second: Convolution,
    last_norm: BatchNorm,
    squeeze: Vec<f32>,
    excite: Vec<f32>,
}

#[derive(Debug)]
struct Output {
    norm: BatchNorm,
    weight: Vec<f32>,
    bias: Vec<f32>,
    last_norm: BatchNorm,
}

impl ArcFace {
    /// Reads all weights; 44 million numbers for the published one.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] or [`Error::Network`] with the tensor if it is not such a network.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let reader = Reader { checkpoint };
        let first = reader.convolution("input_layer.0.weight", 3, 1)?;
        let width = first.out;
        let input =
            (first, reader.norm("input_layer.1", width)?, reader.vector("input_layer.2.weight", width)?);
        let strides = reader.strides(width)?;
        let (mut units, mut inner) = (Vec::new(), width);
        for (index, stride) in strides.into_iter().enumerate() {
            units.push(reader.unit(index, inner, stride)?);
            inner = units[index].second.out;
        }
        Ok(Self { input, units, output: reader.output(inner)? })
    }

    /// The identity of an aligned crop of [`CROP_SIDE`] pixels a side: 512 numbers of length 1.
    ///
    /// # Panics
    /// If the crop has another size.
    #[must_use]
    pub fn embed(&self, crop: &Photo) -> Embedding {
        let (convolution, norm, slopes) = &self.input;
        let mut x = convolution.forward(&network_input(crop));
        norm.apply(&mut x);
        prelu(slopes, &mut x);
        let mut x = self.units.iter().fold(x, |x, unit| unit.forward(x));
        self.output.norm.apply(&mut x);
        let mut values = linear(&self.output.weight, Some(&self.output.bias), &x.values);
        let BatchNorm { scale, shift } = &self.output.last_norm;
        for ((value, scale), shift) in values.iter_mut().zip(scale).zip(shift) {
            *value = *value * scale + shift;
        }
        Embedding::normalised(values)
    }
}

/// Blue, green, red, from -1 to 1: facexlib was trained on pictures as `OpenCV` reads them.
///
/// # Panics
/// If the crop has another size than [`CROP_SIDE`].
pub(crate) fn network_input(crop: &Photo) -> Planes {
    assert_eq!((crop.width(), crop.height()), (CROP_SIDE, CROP_SIDE), "an aligned crop");
    let plane = |channel: usize| {
        crop.rgb().iter().skip(channel).step_by(3).map(|value| f32::from(*value) / 255.0 * 2.0 - 1.0)
    };
    let values = [2, 1, 0].into_iter().flat_map(plane).collect();
    Planes { channels: 3, height: CROP_SIDE, width: CROP_SIDE, values }
}

impl Unit {
    fn forward(&self, x: Planes) -> Planes {
        let shortcut = match &self.shortcut {
            None => x.subsampled(self.stride),
            Some((convolution, norm)) => {
                let mut y = convolution.forward(&x);
                norm.apply(&mut y);
                y
            }
        };
        let mut y = x;
        self.norm.apply(&mut y);
        let mut y = self.first.forward(&y);
        prelu(&self.slopes, &mut y);
        let mut y = self.second.forward(&y);
        self.last_norm.apply(&mut y);
        let gates = self.gates(&y);
        y.map(|channel, value| value * gates[channel]);
        y.values.iter_mut().zip(&shortcut.values).for_each(|(value, shortcut)| *value += shortcut);
        y
    }

    /// Squeeze and excite (Hu et al. 2018): how much of each channel passes.
    fn gates(&self, x: &Planes) -> Vec<f32> {
        let mut hidden = linear(&self.squeeze, None, &means(x));
        hidden.iter_mut().for_each(|value| *value = value.max(0.0));
        let gates = linear(&self.excite, None, &hidden);
        gates.into_iter().map(|value| 1.0 / (1.0 + (-value).exp())).collect()
    }
}

/// Reads tensors as f32 and checks their shapes.
struct Reader<'a> {
    checkpoint: &'a Checkpoint,
}

impl Reader<'_> {
    /// The stride of every unit.
    fn strides(&self, first_width: usize) -> Result<Vec<usize>> {
        let mut widths = vec![first_width];
        while let Some(tensor) = self.checkpoint.get(&format!("body.{}.res_layer.1.weight", widths.len() - 1))
        {
            widths.push(tensor.shape().first().copied().unwrap_or(0));
        }
        let Some(mut strided) = strided(&widths) else {
            return self.refuse(format!("its widths {widths:?} do not halve the side {HALVINGS} times"));
        };
        Ok(strided.drain(..).map(|strided| 1 + usize::from(strided)).collect())
    }

    fn unit(&self, index: usize, inner: usize, stride: usize) -> Result<Unit> {
        let name = |rest: &str| format!("body.{index}.res_layer.{rest}");
        let first = self.convolution(&name("1.weight"), inner, 1)?;
        let out = first.out;
        let hidden = self.extent(&name("5.fc1.weight"))?;
        let shortcut = format!("body.{index}.shortcut_layer");
        let shortcut = match inner == out {
            true => None,
            false => Some((
                self.convolution(&format!("{shortcut}.0.weight"), inner, stride)?,
                self.norm(&format!("{shortcut}.1"), out)?,
            )),
        };
        Ok(Unit {
            stride,
            shortcut,
            norm: self.norm(&name("0"), inner)?,
            slopes: self.vector(&name("2.weight"), out)?,
            second: self.convolution(&name("3.weight"), out, stride)?,
            last_norm: self.norm(&name("4"), out)?,
            squeeze: self.values(&name("5.fc1.weight"), &[hidden, out, 1, 1])?,
            excite: self.values(&name("5.fc2.weight"), &[out, hidden, 1, 1])?,
            first,
        })
    }

    fn output(&self, width: usize) -> Result<Output> {
        let out = self.extent("output_layer.3.weight")?;
        Ok(Output {
            norm: self.norm("output_layer.0", width)?,
            weight: self.values("output_layer.3.weight", &[out, width * LAST_SIDE * LAST_SIDE])?,
            bias: self.vector("output_layer.3.bias", out)?,
            last_norm: self.norm("output_layer.4", out)?,
        })
    }

    fn norm(&self, name: &str, channels: usize) -> Result<BatchNorm> {
        let part = |part: &str| self.vector(&format!("{name}.{part}"), channels);
        Ok(BatchNorm::new(&part("weight")?, &part("bias")?, &part("running_mean")?, &part("running_var")?))
    }

    fn convolution(&self, name: &str, inner: usize, stride: usize) -> Result<Convolution> {
        let shape = self.checkpoint.tensor(name)?.shape();
        let &[out, _, kernel @ (1 | 3), _] = shape else {
            return self.refuse(format!("{name} should be [out, in, 3, 3] or [out, in, 1, 1], is {shape:?}"));
        };
        let weight = self.values(name, &[out, inner, kernel, kernel])?;
        Ok(Convolution { weight, out, inner, kernel, stride })
    }

    fn extent(&self, name: &str) -> Result<usize> {
        let shape = self.checkpoint.tensor(name)?.shape();
        match shape.first() {
            Some(extent @ 1..) => Ok(*extent),
            _ => self.refuse(format!("{name} has the shape {shape:?}")),
        }
    }

    fn vector(&self, name: &str, count: usize) -> Result<Vec<f32>> {
        self.values(name, &[count])
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let tensor = self.checkpoint.tensor(name)?;
        if tensor.shape() != shape {
            return self.refuse(format!("{name} should be {shape:?}, is {:?}", tensor.shape()));
        }
        match values(tensor) {
            Some(values) => Ok(values),
            None => self.refuse(format!("{name} should be of floats, is {}", tensor.dtype())),
        }
    }

    fn refuse<T>(&self, message: String) -> Result<T> {
        Err(Error::Network { path: self.checkpoint.path().to_owned(), message })
    }
}

/// Which units halve the side: the first, those that change the width, and the earliest behind those where that is fewer than four.
fn strided(widths: &[usize]) -> Option<Vec<bool>> {
    let mut strided: Vec<bool> =
        widths.windows(2).enumerate().map(|(unit, pair)| unit == 0 || pair[0] != pair[1]).collect();
    while strided.iter().filter(|strided| **strided).count() < HALVINGS {
        let next = (1..strided.len()).find(|unit| !strided[*unit] && strided[unit - 1])?;
        strided[next] = true;
    }
    (strided.iter().filter(|strided| **strided).count() == HALVINGS).then_some(strided)
}

/// All values of a tensor of floats, as f32.
pub(crate) fn values(tensor: &Tensor) -> Option<Vec<f32>> {
    let bytes = tensor.bytes();
    Some(match tensor.dtype() {
        DType::F32 => bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect(),
        DType::Bf16 => bytes.as_chunks().0.iter().map(|value| bf16::from_le_bytes(*value).to_f32()).collect(),
        DType::F16 => bytes.as_chunks().0.iter().map(|value| f16::from_le_bytes(*value).to_f32()).collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(widths: &[usize], expected: &[usize]) {
        let found: Option<Vec<usize>> =
            strided(widths).map(|strided| (0..strided.len()).filter(|unit| strided[*unit]).collect());
        assert_eq!(found.as_deref(), Some(expected), "{widths:?}");
    }

    #[test]
    fn published_network_halves_where_its_widths_change() {
        let units = [(64, 3), (128, 4), (256, 14), (512, 3)];
        let widths: Vec<usize> =
            std::iter::once(64).chain(units.iter().flat_map(|(width, count)| vec![*width; *count])).collect();
        check(&widths, &[0, 3, 7, 21]);
    }

    #[test]
    fn demo_network_has_a_stage_that_keeps_the_width() {
        check(&[16, 16, 32, 32, 32, 48], &[0, 1, 2, 4]);
    }

    #[test]
    fn other_networks_are_none() {
        assert_eq!(strided(&[64]), None);
        assert_eq!(strided(&[8, 16, 24, 32, 40, 48]), None);
    }
}
