use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use lighterage_pipeline as pipeline;

use crate::interrupt;

/// What a command returns.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// How a command ends when it does not end well.
///
/// It is no [`Error`] itself, so that every error converts into it by `?`.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments cannot be meant: exit code 2.
    Usage(String),
    /// It did not work: exit code 1.
    Failed(Box<dyn Error>),
    /// A check said no, and the command has already shown why: exit code 1.
    Refused(String),
    /// Stopped by Ctrl-C or another signal: exit code 128 and its number, 130 for Ctrl-C.
    Interrupted(String),
    /// The reader of stdout went away: not our trouble.
    PipeClosed,
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::PipeClosed => 0,
            Self::Failed(_) | Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Interrupted(_) => interrupt::exit_code(),
        }
    }

    /// One line on stderr, and the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if !matches!(self, Self::PipeClosed) {
            // Nobody is left to tell if stderr is closed too.
            let _ = writeln!(io::stderr(), "error: {self}");
        }
        self.into()
    }
}

/// One line, with the whole chain of causes in it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Usage(text) | Self::Refused(text) | Self::Interrupted(text) => text.clone(),
            Self::Failed(error) => chain(&**error),
            Self::PipeClosed => "nobody reads the output".to_owned(),
        };
        f.write_str(&text.replace('\n', " "))
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let error: Box<dyn Error> = Box::new(error);
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return Self::PipeClosed;
        }
        match error.downcast_ref::<pipeline::Error>() {
            Some(stopped @ (pipeline::Error::Cancelled { .. } | pipeline::Error::CancelledBefore { .. })) => {
                Self::Interrupted(stopped.to_string())
            }
            Some(option @ pipeline::Error::Option { .. }) => Self::Usage(option.to_string()),
            _ => Self::Failed(error),
        }
    }
}

/// An error and its causes; a cause that is already in the text is left out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    fn link(text: &'static str, source: Option<Link>) -> Link {
        Link { text, source: source.map(Box::new) }
    }

    #[test]
    fn the_whole_chain_is_shown_and_nothing_twice() {
        let error =
            link("cannot open x: no such file", Some(link("no such file", Some(link("code 2", None)))));
        assert_eq!(chain(&error), "cannot open x: no such file: code 2");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.code(), 0);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::NotFound)).code(), 1);
    }
}
