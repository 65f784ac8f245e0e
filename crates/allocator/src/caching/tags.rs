/// What memory is for, as a small number: see [`Allocator::tag`](crate::Allocator::tag).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub(crate) u16);

impl Tag {
    /// No tag: reports call it `-`.
    pub const NONE: Self = Self(0);
}

/// Names by number.
#[derive(Debug)]
pub(crate) struct Tags(Vec<&'static str>);

impl Default for Tags {
    fn default() -> Self {
        Self(vec!["-"])
    }
}

impl Tags {
    /// The number of a name. After 65,535 names all further ones share the last number.
    pub(crate) fn number(&mut self, name: &'static str) -> Tag {
        let position = self.0.iter().position(|known| *known == name).unwrap_or_else(|| {
            if self.0.len() <= usize::from(u16::MAX) {
                self.0.push(name);
            }
            self.0.len() - 1
        });
        Tag(u16::try_from(position).unwrap_or(u16::MAX))
    }

    pub(crate) fn names(&self) -> &[&'static str] {
        &self.0
    }

    pub(crate) fn name(&self, tag: u16) -> &'static str {
        self.0.get(usize::from(tag)).copied().unwrap_or("-")
    }
}
