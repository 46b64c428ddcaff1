//! What may go wrong with a program, in words for the one who can mend it.

use tidemill_pipelines::Blame;

/// Why a program made no file.
#[derive(Debug, thiserror::Error)]
pub enum ProgramFault {
    /// The program is not on this machine.
    #[error(
        "the program `{program}` is missing: install it where processors run, so that it is found in PATH"
    )]
    Missing {
        /// Its name.
        program: String,
    },
    /// The program is there and could not be started.
    #[error("failed to start the program `{program}`: {message}")]
    NotStarted {
        /// Its name.
        program: String,
        /// What the operating system said.
        message: String,
    },
    /// It ran longer than its limit, and was killed with its children.
    #[error("`{program}` was stopped: it ran longer than its limit of {seconds} seconds")]
    TimedOut {
        /// Its name.
        program: String,
        /// The limit.
        seconds: u64,
    },
    /// It wrote a file larger than its limit.
    #[error("`{program}` was stopped: it wrote a file larger than its limit of {bytes} bytes")]
    TooLarge {
        /// Its name.
        program: String,
        /// The limit.
        bytes: u64,
    },
    /// It refused the file, or broke down on it.
    #[error("`{program}` failed with {how}{hint}{}{tail}", if .tail.is_empty() { "" } else { ": " })]
    Failed {
        /// Its name.
        program: String,
        /// Its status or signal.
        how: String,
        /// What may be behind it, or nothing.
        hint: String,
        /// The end of what it wrote to stderr.
        tail: String,
    },
    /// It ended well without a file where one was wanted, or with an empty one.
    #[error("`{program}` ended well, but {what}{}{tail}", if .tail.is_empty() { "" } else { ": " })]
    NoOutput {
        /// Its name.
        program: String,
        /// What is wrong with the output.
        what: &'static str,
        /// The end of what it wrote to stderr.
        tail: String,
    },
    /// More than one file in one job.
    #[error("a program takes one file a job, and this job has {files}")]
    ManyFiles {
        /// How many.
        files: usize,
    },
    /// The folder in which programs work.
    #[error("failed to {action} the temporary folder of a program")]
    Workplace {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl ProgramFault {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Missing { .. } | Self::NotStarted { .. } | Self::Workplace { .. } => Blame::Operator,
            Self::TimedOut { .. } | Self::TooLarge { .. } | Self::NoOutput { .. } => Blame::Author,
            Self::Failed { .. } | Self::ManyFiles { .. } => Blame::Sender,
        }
    }

    /// A stable word for the job's error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "program_missing",
            Self::NotStarted { .. } => "program_not_started",
            Self::TimedOut { .. } => "program_timed_out",
            Self::TooLarge { .. } => "output_too_large",
            Self::Failed { .. } => "program_failed",
            Self::NoOutput { .. } => "no_output",
            Self::ManyFiles { .. } => "too_many_files",
            Self::Workplace { .. } => "workplace_failed",
        }
    }
}
