use lighterage_checkpoint::{Checkpoint, Tensor};

use crate::config::flux_axes;
use crate::names::Names;
use crate::{Config, Error, Result};

impl Config {
    /// The configuration of a checkpoint: `config.json` beside it, or what its tensors' shapes say where there is none.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], [`Error::Config`], or those of [`derive`](Self::derive).
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let path = checkpoint.path();
        let folder = if path.is_dir() { Some(path) } else { path.parent() };
        match folder.map(|folder| folder.join("config.json")).filter(|file| file.is_file()) {
            Some(file) => Self::read(&file),
            None => Self::derive(checkpoint),
        }
    }

    /// Reads the configuration off names and shapes, for files that come without `config.json`. How a head is divided among the axes is not
    /// to be seen there: only heads of 128 elements, as all published models have, are known to be 16, 56, 56.
    ///
    /// # Errors
    /// [`Error::Layout`] or [`Error::Checkpoint`] if it is no FLUX transformer, [`Error::Config`] if the head is another.
    pub fn derive(checkpoint: &Checkpoint) -> Result<Self> {
        let witness = Witness { checkpoint, names: Names::detect(checkpoint)? };
        let [width, in_channels] = witness.shape(("x_embedder", "img_in"))?;
        let [_, joint_attention_dim] = witness.shape(("context_embedder", "txt_in"))?;
        let [_, pooled_projection_dim] =
            witness.shape(("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"))?;
        let guidance = ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer");
        let out_channels = witness.find(("proj_out", "final_layer.linear")).map(|tensor| tensor.shape()[0]);
        let attention_head_dim = witness.head()?;
        let config = Self {
            in_channels,
            out_channels,
            num_layers: witness.doubles(),
            num_single_layers: witness.singles(),
            attention_head_dim,
            num_attention_heads: width / attention_head_dim,
            joint_attention_dim,
            pooled_projection_dim,
            guidance_embeds: witness.find(guidance).is_some(),
            axes_dims_rope: axes(attention_head_dim).map_err(|error| error.within(checkpoint.path()))?,
            patch_size: 1,
            num_mode: None,
            conditioning_embedding_channels: None,
        };
        config.check().map_err(|error| error.within(checkpoint.path()))?;
        Ok(config)
    }
}

/// A checkpoint to be asked for shapes.
pub(crate) struct Witness<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) names: Names,
}

impl<'a> Witness<'a> {
    /// How many double blocks there are.
    pub(crate) fn doubles(&self) -> usize {
        self.count("transformer_blocks", "norm1.linear", "double_blocks", "img_mod.lin")
    }

    /// How many single blocks there are.
    pub(crate) fn singles(&self) -> usize {
        self.count("single_transformer_blocks", "norm.linear", "single_blocks", "modulation.lin")
    }

    /// The weight of a module, named in both spellings.
    pub(crate) fn find(&self, (diffusers, bfl): (&str, &str)) -> Option<&'a Tensor> {
        let tensor = self.checkpoint.get(&self.names.weight(diffusers, bfl))?;
        (tensor.shape().len() == 2).then_some(tensor)
    }

    pub(crate) fn shape(&self, module: (&str, &str)) -> Result<[usize; 2]> {
        let tensor = self.checkpoint.tensor(&self.names.weight(module.0, module.1))?;
        tensor.shape().try_into().map_err(|_| Error::Input {
            name: format!("{}: tensor {:?} (any extents)", tensor.path().display(), tensor.name()),
            expected: vec![0, 0],
            got: tensor.shape().to_vec(),
        })
    }

    /// How many blocks there are, counted by their modulation.
    fn count(&self, diffusers: &str, diffusers_module: &str, bfl: &str, bfl_module: &str) -> usize {
        let has = |block: &usize| {
            let diffusers = format!("{diffusers}.{block}.{diffusers_module}");
            let bfl = format!("{bfl}.{block}.{bfl_module}");
            self.find((&diffusers, &bfl)).is_some()
        };
        (0..).take_while(has).count()
    }

    /// Elements of a head: the length of its norm's weight.
    fn head(&self) -> Result<usize> {
        let [_, _, double, _] = self.names.double_norms(0);
        let [single, _] = self.names.single_norms(0);
        let tensor = match self.checkpoint.get(&double) {
            Some(tensor) => tensor,
            None => self.checkpoint.tensor(&single)?,
        };
        let head: usize = tensor.shape().iter().product();
        if head == 0 {
            let needs = "above 0".to_owned();
            return Err(Error::Config { name: "attention_head_dim", got: head.to_string(), needs });
        }
        Ok(head)
    }
}

fn axes(head: usize) -> Result<[usize; 3]> {
    if head == flux_axes().iter().sum::<usize>() {
        return Ok(flux_axes());
    }
    let got = format!("not in the checkpoint, whose heads have {head} elements");
    let needs =
        "given in a config.json beside it (or in transformer/): only for heads of 128 elements is it known"
            .to_owned();
    Err(Error::Config { name: "axes_dims_rope", got, needs })
}
