//! Writes ONNX files: as much of protobuf and of ONNX as small graphs of convolutions need (onnx.proto3).

/// SCRFD's signature around the simplest of detectors: a cell is a face as far as its mean is red and not green or blue.
pub(crate) fn red_detector() -> Vec<u8> {
    let mut graph = Graph::new("input.1", &[1, 3, -1, -1]);
    for stride in [8_i64, 16, 32] {
        let pooled = graph.node(
            "AveragePool",
            &["input.1"],
            &[
                ("kernel_shape", Attribute::Integers(vec![stride; 2])),
                ("strides", Attribute::Integers(vec![stride; 2])),
            ],
        );
        // Two guesses a cell; the second is never good enough.
        let logits = graph.convolution(&pooled, &[&[12.0, -12.0, -12.0], &[0.0; 3]], &[-30.0, -9.0]);
        let scores = graph.node("Sigmoid", &[&logits], &[]);
        graph.output(&scores, 1);
        let (reach, point) = (4, 10);
        let boxes = graph.convolution(
            &pooled,
            &vec![&[0.0; 3][..]; 2 * reach],
            &[1.0, 0.5, 2.0, 1.5, 0.0, 0.0, 0.0, 0.0],
        );
        graph.output(&boxes, reach);
        let offsets: Vec<f32> = (0..2 * point)
            .map(|index| [-0.5, 0.0, 0.5, 0.0, 0.0, 0.5, -0.25, 1.0, 0.25, 1.0][index % 10])
            .collect();
        let points = graph.convolution(&pooled, &vec![&[0.0; 3][..]; 2 * point], &offsets);
        graph.output(&points, point);
    }
    graph.finish()
}

/// A value of a node's attribute.
pub(crate) enum Attribute {
    Integers(Vec<i64>),
}

/// A graph with one input, under construction. Names of values are counted.
pub(crate) struct Graph {
    fields: Vec<u8>,
    values: usize,
    outputs: Vec<u8>,
}

impl Graph {
    /// `shape` is that of the input; -1 is any extent.
    pub(crate) fn new(input: &str, shape: &[i64]) -> Self {
        let fields = [text(2, "graph"), message(11, &value_info(input, shape))].concat();
        Self { fields, values: 0, outputs: Vec::new() }
    }

    /// The name of the node's one output.
    pub(crate) fn node(&mut self, kind: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let output = self.name();
        let mut node: Vec<u8> = inputs.iter().flat_map(|input| text(1, input)).collect();
        node.extend(text(2, &output));
        node.extend(text(4, kind));
        node.extend(attributes.iter().flat_map(|(name, value)| message(5, &attribute(name, value))));
        self.fields.extend(message(1, &node));
        output
    }

    /// A 1x1 convolution: one row of weights and one bias for each output channel.
    pub(crate) fn convolution(&mut self, input: &str, rows: &[&[f32]], bias: &[f32]) -> String {
        let inner = i64::try_from(rows[0].len()).unwrap();
        let out = i64::try_from(rows.len()).unwrap();
        let weight = self.constant(&[out, inner, 1, 1], &rows.concat());
        let bias = self.constant(&[out], bias);
        let ones = |count| Attribute::Integers(vec![1; count]);
        self.node("Conv", &[input, &weight, &bias], &[("kernel_shape", ones(2)), ("strides", ones(2))])
    }

    /// Makes `[1, channels, height, width]` an output of so many numbers in each row, cells in reading order.
    pub(crate) fn output(&mut self, value: &str, numbers: usize) {
        let permutation = Attribute::Integers(vec![0, 2, 3, 1]);
        let turned = self.node("Transpose", &[value], &[("perm", permutation)]);
        let numbers = i64::try_from(numbers).unwrap();
        let shape = self.integers(&[-1, numbers]);
        let rows = self.node("Reshape", &[&turned, &shape], &[]);
        self.outputs.extend(message(12, &value_info(&rows, &[-1, numbers])));
    }

    /// The file.
    pub(crate) fn finish(self) -> Vec<u8> {
        let graph = [self.fields, self.outputs].concat();
        // ir_version 8, opset 17 of the default domain.
        [number(1, 8), message(7, &graph), message(8, &[text(1, ""), number(2, 17)].concat())].concat()
    }

    fn constant(&mut self, shape: &[i64], values: &[f32]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(shape, 1, &bytes)
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(&[i64::try_from(values.len()).unwrap()], 7, &bytes)
    }

    fn initializer(&mut self, shape: &[i64], kind: u64, bytes: &[u8]) -> String {
        let name = self.name();
        let mut tensor: Vec<u8> = shape.iter().flat_map(|extent| number(1, extent.cast_unsigned())).collect();
        tensor.extend(number(2, kind));
        tensor.extend(text(8, &name));
        tensor.extend(message(9, bytes));
        self.fields.extend(message(5, &tensor));
        name
    }

    fn name(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }
}

fn attribute(name: &str, Attribute::Integers(values): &Attribute) -> Vec<u8> {
    let values = values.iter().flat_map(|value| number(8, value.cast_unsigned()));
    text(1, name).into_iter().chain(values).chain(number(20, 7)).collect()
}

/// A value of f32 with its shape.
fn value_info(name: &str, shape: &[i64]) -> Vec<u8> {
    let extent = |extent: &i64| match u64::try_from(*extent) {
        Ok(extent) => number(1, extent),
        Err(_) => text(2, "any"),
    };
    let dimensions: Vec<u8> = shape.iter().flat_map(|value| message(1, &extent(value))).collect();
    let tensor = [number(1, 1), message(2, &dimensions)].concat();
    [text(1, name), message(2, &message(1, &tensor))].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn text(field: u64, value: &str) -> Vec<u8> {
    message(field, value.as_bytes())
}

fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
