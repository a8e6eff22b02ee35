//! The arrays of a linear layer in GPTQ's layout, as AutoGPTQ writes them. For `out` rows and `in` columns:
//!
//! - `qweight` i32 `[in · bits / 32, out]`: the codes of a row, one after the other from the lowest bit, go down a column.
//!   Of 3 bits a code may lie in two words.
//! - `qzeros` i32 `[groups, out · bits / 32]`: the zeros of a group, packed along the row. The format `gptq` stores
//!   zero − 1, so that 0 is stored as the last code; `gptq_v2` stores the zero.
//! - `scales` f16 `[groups, out]`.
//! - `g_idx` i32 `[in]`: the group of each column.
//!
//! A value is scale · (code − zero).

use half::f16;
use serde_json::{Value, json};

use super::error::WeightsError;
use super::json_fields::JsonFields;
use crate::quant::integer::IntegerMatrix;

/// The names of a layer's arrays, after its module's.
pub(super) const ARRAYS: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];
/// Bits that readers of the layout know.
const BITS: [u8; 4] = [2, 3, 4, 8];
const WORD: usize = 32;

/// What `quantization_config` in `config.json` says of all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GptqFormat {
    pub bits: u8,
    /// Columns of a group; a whole row if `None`.
    pub group_size: Option<usize>,
    pub symmetric: bool,
    /// Whether groups are of columns in the order of their activations.
    pub activation_order: bool,
    /// `gptq_v2`: the stored zero is the zero.
    pub plain_zeros: bool,
}

impl GptqFormat {
    /// The one format of all layers: `gptq`, or `gptq_v2` where a zero is 0. Readers of `gptq` add 1 to whole words, in which
    /// the last code would carry into the next.
    ///
    /// # Errors
    /// What does not fit, with the layer that it is about.
    pub fn of<'a>(
        layers: impl IntoIterator<Item = (&'a str, &'a IntegerMatrix)>,
    ) -> Result<Self, String> {
        let mut format: Option<Self> = None;
        for (module, matrix) in layers {
            let middle = 1_u8 << (matrix.bits - 1);
            let whole = matrix.group_size == matrix.columns;
            let own = Self {
                bits: matrix.bits,
                group_size: (!whole).then_some(matrix.group_size),
                symmetric: matrix.zeros.iter().all(|zero| *zero == middle),
                activation_order: matrix.group_of_column.is_some(),
                plain_zeros: matrix.zeros.contains(&0),
            };
            check_bits(matrix.bits)
                .and_then(|()| own.shapes([matrix.rows, matrix.columns]).map(|_| ()))
                .map_err(|problem| format!("layer `{module}`: {problem}"))?;
            let format = format.get_or_insert(own);
            format.symmetric &= own.symmetric;
            format.plain_zeros |= own.plain_zeros;
            format.activation_order |= own.activation_order;
            // A group may be as long as the rows of some layers and not of others.
            if format.group_size.is_none() {
                format.group_size = own.group_size;
            }
            let group_size = format.group_size.unwrap_or(matrix.columns);
            if (format.bits, group_size) != (matrix.bits, matrix.group_size) {
                return Err(format!(
                    "layer `{module}` has {} bits in groups of {}, another has {} bits in groups of {group_size}: \
                     the layout knows one of each",
                    matrix.bits, matrix.group_size, format.bits
                ));
            }
        }
        format.ok_or_else(|| "there is no layer in integers".to_owned())
    }

    /// Reads `quantization_config`.
    ///
    /// # Errors
    /// For other methods than `gptq`, and for settings that no such file has.
    pub(super) fn read(fields: &JsonFields<'_>) -> Result<Option<Self>, WeightsError> {
        let Some(config) = fields.value("quantization_config") else {
            return Ok(None);
        };
        let config = JsonFields::new(fields.path, config)?;
        let method = config.text("quant_method")?;
        if method != Some("gptq") {
            let what = "a checkpoint with quantised tensors (key `quantization_config`) of method";
            let accepted = "gptq; f32, f16 and bf16 tensors";
            let found = method.unwrap_or("absent");
            return Err(WeightsError::unsupported(
                fields.path,
                what,
                found,
                accepted,
            ));
        }
        let bits = config.required_length("bits")?;
        let bits = u8::try_from(bits).ok().filter(|bits| BITS.contains(bits));
        let group_size = match config.value("group_size").and_then(Value::as_i64) {
            Some(-1) => None,
            Some(size @ 1..) => usize::try_from(size).ok(),
            _ => return Err(config.wrong("group_size", "a positive integer, or -1 for whole rows")),
        };
        let format = config.text("checkpoint_format")?.unwrap_or("gptq");
        if !["gptq", "gptq_v2"].contains(&format) {
            return Err(config.wrong("checkpoint_format", "\"gptq\" or \"gptq_v2\""));
        }
        Ok(Some(Self {
            bits: bits.ok_or_else(|| config.wrong("bits", "2, 3, 4 or 8"))?,
            group_size,
            symmetric: config.boolean("sym")?.unwrap_or(true),
            activation_order: config.boolean("desc_act")?.unwrap_or(false),
            plain_zeros: format == "gptq_v2",
        }))
    }

    /// The content of `quantization_config`, as Hugging Face's readers expect it.
    pub fn to_json(&self) -> Value {
        json!({
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group_size.map_or(json!(-1), |size| json!(size)),
            "desc_act": self.activation_order,
            "sym": self.symmetric,
            "lm_head": false,
            "true_sequential": false,
            "checkpoint_format": if self.plain_zeros { "gptq_v2" } else { "gptq" },
            "meta": { "quantizer": ["distillery"] },
        })
    }

    /// The shapes of [`ARRAYS`] for a matrix of this one.
    ///
    /// # Errors
    /// When codes or zeros do not fill words, or groups not rows.
    pub(super) fn shapes(&self, [rows, columns]: [usize; 2]) -> Result<[Vec<usize>; 4], String> {
        let bits = usize::from(self.bits);
        let words = |what: &str, count: usize| match (count * bits).is_multiple_of(WORD) {
            true => Ok(count * bits / WORD),
            false => Err(format!(
                "{count} {what} of {bits} bits do not fill words of {WORD} bits"
            )),
        };
        let group_size = self.group_size.unwrap_or(columns);
        if group_size == 0 || !columns.is_multiple_of(group_size) {
            return Err(format!(
                "rows of {columns} are not whole groups of {group_size}"
            ));
        }
        let groups = columns / group_size;
        Ok([
            vec![words("columns", columns)?, rows],
            vec![groups, words("rows", rows)?],
            vec![groups, rows],
            vec![columns],
        ])
    }

    fn stored_zero(&self, zero: u8) -> u8 {
        zero.wrapping_sub(u8::from(!self.plain_zeros)) & self.last()
    }

    fn zero(&self, stored: u8) -> u8 {
        stored.wrapping_add(u8::from(!self.plain_zeros)) & self.last()
    }

    /// The largest code.
    fn last(&self) -> u8 {
        u8::MAX >> (8 - self.bits)
    }
}

fn check_bits(bits: u8) -> Result<(), String> {
    match BITS.contains(&bits) {
        true => Ok(()),
        false => Err(format!(
            "{bits} bits are not in GPTQ's layout; accepted: 2, 3, 4, 8"
        )),
    }
}

/// A layer's arrays, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct GptqArrays {
    pub qweight: Vec<u32>,
    pub qzeros: Vec<u32>,
    pub scales: Vec<f32>,
    pub g_idx: Vec<u32>,
}

impl GptqArrays {
    /// # Errors
    /// When a scale is no f16 number, or codes do not fill words.
    pub fn pack(matrix: &IntegerMatrix, format: &GptqFormat) -> Result<Self, String> {
        let shape = [matrix.rows, matrix.columns];
        let [qweight, qzeros, ..] = format.shapes(shape)?;
        let exact = |scale: &f32| f16::from_f32(*scale).to_f32() == *scale;
        if let Some(scale) = matrix.scales.iter().find(|scale| !exact(scale)) {
            return Err(format!("scale {scale} is no f16 number"));
        }
        let (bits, groups) = (usize::from(format.bits), matrix.groups());
        let mut arrays = Self {
            qweight: vec![0; qweight[0] * qweight[1]],
            qzeros: Vec::with_capacity(qzeros[0] * qzeros[1]),
            scales: Vec::with_capacity(matrix.scales.len()),
            g_idx: (0..matrix.columns)
                .map(|column| matrix.group(column) as u32)
                .collect(),
        };
        for (row, codes) in matrix.codes.chunks(matrix.columns).enumerate() {
            for (word, value) in pack(codes.iter().copied(), bits).into_iter().enumerate() {
                arrays.qweight[word * matrix.rows + row] = value;
            }
        }
        for group in 0..groups {
            let zeros = matrix.zeros[group..].iter().step_by(groups);
            let stored = zeros.map(|zero| format.stored_zero(*zero));
            arrays.qzeros.extend(pack(stored, bits));
            let scales = matrix.scales[group..].iter().step_by(groups);
            arrays.scales.extend(scales);
        }
        Ok(arrays)
    }

    /// The matrix `[rows, columns]` of arrays that have the shapes of [`GptqFormat::shapes`].
    ///
    /// # Errors
    /// When a column's group does not exist, or a scale is not finite.
    pub fn unpack(
        &self,
        [rows, columns]: [usize; 2],
        format: &GptqFormat,
    ) -> Result<IntegerMatrix, String> {
        let group_size = format.group_size.unwrap_or(columns);
        let groups = columns / group_size;
        let out = self
            .g_idx
            .iter()
            .position(|group| *group as usize >= groups);
        if let Some(column) = out {
            let group = self.g_idx[column] as i32;
            return Err(format!(
                "column {column} is of group {group}, but there are groups 0 to {}",
                groups - 1
            ));
        }
        if let Some(scale) = self.scales.iter().find(|scale| !scale.is_finite()) {
            return Err(format!("a scale is {scale}"));
        }
        let bits = usize::from(format.bits);
        let code = |words: &dyn Fn(usize) -> u32, at: usize| unpack(words, bits, at);
        let mut codes = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            let words = |word: usize| self.qweight[word * rows + row];
            codes.extend((0..columns).map(|column| code(&words, column)));
        }
        let words_of_group = rows * bits / WORD;
        let by_row = |at: usize| (at / groups, at % groups);
        let zero = |at: usize| {
            let (row, group) = by_row(at);
            let words = |word: usize| self.qzeros[group * words_of_group + word];
            format.zero(code(&words, row))
        };
        let scale = |at: usize| {
            let (row, group) = by_row(at);
            self.scales[group * rows + row]
        };
        let in_order = (self.g_idx.iter().enumerate())
            .all(|(column, group)| *group as usize == column / group_size);
        Ok(IntegerMatrix {
            rows,
            columns,
            bits: format.bits,
            group_size,
            codes,
            scales: (0..rows * groups).map(scale).collect(),
            zeros: (0..rows * groups).map(zero).collect(),
            group_of_column: (!in_order).then(|| self.g_idx.clone()),
        })
    }
}

/// Codes of `bits` bits, one after the other from the lowest bit of the first word.
fn pack(codes: impl ExactSizeIterator<Item = u8>, bits: usize) -> Vec<u32> {
    let mut words = vec![0; codes.len() * bits / WORD];
    for (at, code) in codes.enumerate() {
        let (word, shift) = (at * bits / WORD, at * bits % WORD);
        let wide = u64::from(code) << shift;
        words[word] |= wide as u32;
        if shift + bits > WORD {
            words[word + 1] |= (wide >> WORD) as u32;
        }
    }
    words
}

/// Code number `at` of those that [`pack`] packed.
fn unpack(words: &dyn Fn(usize) -> u32, bits: usize, at: usize) -> u8 {
    let (word, shift) = (at * bits / WORD, at * bits % WORD);
    let mut wide = u64::from(words(word));
    if shift + bits > WORD {
        wide |= u64::from(words(word + 1)) << WORD;
    }
    (wide >> shift) as u8 & (u8::MAX >> (8 - bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::integer::IntegerConfig;
    use crate::random::normal_values;

    fn matrix(bits: u8, reordered: bool) -> IntegerMatrix {
        let config = IntegerConfig {
            bits,
            group_size: Some(32),
            symmetric: false,
        };
        let values = normal_values(64 * 96, 4, "layout", 0.1);
        let mut matrix = IntegerMatrix::round_to_nearest(&values, [64, 96], &config).unwrap();
        // What only positive weights have, and what wraps around when it is stored.
        matrix.zeros[5] = 0;
        let group = |column: u32| column * 7 % 96 / 32;
        matrix.group_of_column = reordered.then(|| (0..96).map(group).collect());
        matrix
    }

    #[test]
    fn what_is_packed_is_unpacked_whatever_the_bits() {
        for bits in BITS {
            for (reordered, plain_zeros) in [(false, false), (true, true)] {
                let matrix = matrix(bits, reordered);
                let format = GptqFormat::of([("a", &matrix)]).unwrap();
                let format = GptqFormat {
                    plain_zeros,
                    ..format
                };
                assert_eq!(format.activation_order, reordered);
                assert!(GptqFormat::of([("a", &matrix)]).unwrap().plain_zeros);
                let arrays = GptqArrays::pack(&matrix, &format).unwrap();
                let shapes = format.shapes([64, 96]).unwrap();
                let length = |at: usize| shapes[at].iter().product::<usize>();
                assert_eq!(arrays.qweight.len(), length(0));
                assert_eq!(arrays.qzeros.len(), length(1));
                assert_eq!(arrays.unpack([64, 96], &format).unwrap(), matrix);
            }
        }
    }

    /// The layout of AutoGPTQ's 3 bits, from its code: ten codes, two bits of the next; its last bit, ten codes, one bit
    /// of the next; its last two bits, ten codes.
    #[test]
    fn three_bits_lie_as_autogptq_packs_them() {
        let codes: Vec<u8> = (0..32).map(|at| (at * 5 + 3) % 8).collect();
        let code = |at: usize| u32::from(codes[at]);
        let run = |first: usize, shift: usize| -> u32 {
            let terms = (0..10).map(|i| code(first + i) << (3 * i + shift));
            terms.fold(0, |word, term| word | term)
        };
        let expected = [
            run(0, 0) | code(10) << 30,
            code(10) >> 2 & 1 | run(11, 1) | code(21) << 31,
            code(21) >> 1 & 3 | run(22, 2),
        ];
        assert_eq!(pack(codes.iter().copied(), 3), expected);
    }

    #[test]
    fn what_the_layout_cannot_hold_is_told() {
        let of = |matrix: &IntegerMatrix| GptqFormat::of([("layer", matrix)]).unwrap_err();
        let five = of(&matrix(5, false));
        assert!(
            five.contains("5 bits") && five.contains("2, 3, 4, 8"),
            "{five}"
        );
        let mut narrow = matrix(4, false);
        narrow.rows = 12;
        assert!(of(&narrow).contains("12 rows of 4 bits"), "{}", of(&narrow));
        let mut positive = matrix(4, false);
        positive.zeros[5] = 1;
        let both = GptqFormat::of([("a", &positive), ("b", &matrix(4, false))]).unwrap();
        let neither = GptqFormat::of([("a", &positive)]).unwrap();
        assert!(both.plain_zeros && !neither.plain_zeros);
        let (a, b) = (matrix(4, false), matrix(8, false));
        let mixed = GptqFormat::of([("a", &a), ("b", &b)]).unwrap_err();
        assert!(mixed.contains("`b` has 8 bits"), "{mixed}");
        let mut wide = matrix(4, false);
        let format = GptqFormat::of([("a", &wide)]).unwrap();
        wide.scales[7] = 0.1;
        assert!(
            GptqArrays::pack(&wide, &format)
                .unwrap_err()
                .contains("no f16")
        );
        let mut arrays = GptqArrays::pack(&a, &format).unwrap();
        arrays.g_idx[9] = 3;
        let error = arrays.unpack([64, 96], &format).unwrap_err();
        assert!(error.contains("column 9 is of group 3"), "{error}");
    }
}
