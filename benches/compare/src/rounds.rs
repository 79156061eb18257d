//! The rounds: programs of a group take turns, so that other load of the machine affects all alike.

use std::fs::File;
use std::io::{self, Write};

use crate::process::{Broken, Process};
use crate::programs::{GROUPS, Group, Part, Program, Unit};
use crate::results::{FOREIGN_CORES_MAX, KEPT_MIN};
use crate::run::{Record, Stage, run};

/// Rates beside an endless loop have no goals, so they take only the rounds that a median needs.
const ROUNDS_BESIDE_HOG_MAX: usize = 3;

/// A group of programs with messages of one length.
pub(crate) struct Bout {
    pub(crate) group: &'static Group,
    pub(crate) size: usize,
    pub(crate) has_hog: bool,
}

impl Bout {
    /// The programs whose name begins with one of the patterns; all without patterns.
    pub(crate) fn matching(patterns: &[String], with_hog: bool) -> Vec<Self> {
        let mut bouts = Vec::new();
        for group in GROUPS {
            let hogs: &[bool] = if with_hog { &[false, true] } else { &[false] };
            for (&size, &has_hog) in group
                .sizes
                .iter()
                .flat_map(|size| hogs.iter().map(move |hog| (size, hog)))
            {
                bouts.push(Self {
                    group,
                    size,
                    has_hog,
                });
            }
        }
        bouts.retain(|bout| {
            let is_meant = |pattern: &String| bout.name().starts_with(pattern.as_str());
            patterns.is_empty() || patterns.iter().any(is_meant)
        });
        bouts
    }

    /// The text that `--rows` is compared with.
    pub(crate) fn name(&self) -> String {
        let hog = if self.has_hog { " hog" } else { "" };
        format!("{} {}{hog}", self.group.name, self.size)
    }
}

/// The reason for missing results.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("{program} ({bout}): {broken}")]
    Program {
        bout: String,
        program: &'static str,
        broken: Broken,
    },
    #[error("cannot keep the results: {0}")]
    Keep(#[from] io::Error),
}

/// Runs a bout and appends each run to `file` when it is complete.
pub(crate) fn run_bout(
    stage: &Stage,
    bout: &Bout,
    rounds: usize,
    file: &mut File,
) -> Result<Vec<Record>, Failed> {
    let failed = |program, broken| Failed::Program {
        bout: bout.name(),
        program,
        broken,
    };
    let hog = bout
        .has_hog
        .then(|| Process::start_own(0, vec!["hog".to_owned()]));
    let hog = hog
        .transpose()
        .map_err(|broken| failed("the hog", broken))?;
    let hog = hog.as_ref().map(|(process, _)| process);
    let programs = || bout.group.programs.iter().filter(|it| can_run(stage, it));
    let rounds = match bout.has_hog && bout.group.unit != Unit::RoundTrip {
        true => rounds.min(ROUNDS_BESIDE_HOG_MAX),
        false => rounds,
    };
    let mut records: Vec<Record> = Vec::new();
    // At most twice the rounds: a program with too many noisy runs gets another.
    for round in 0..2 * rounds {
        for program in programs() {
            let kept =
                |it: &&Record| it.program == program.name && it.foreign_cores <= FOREIGN_CORES_MAX;
            if round >= rounds && records.iter().filter(kept).count() >= KEPT_MIN.min(rounds) {
                continue;
            }
            let place = (bout.group, bout.size);
            let record = run(stage, place, program, round, hog);
            let record = record.map_err(|broken| failed(program.name, broken))?;
            writeln!(
                file,
                "{}",
                serde_json::to_string(&record).map_err(io::Error::from)?
            )?;
            records.push(record);
        }
    }
    Ok(records)
}

fn can_run(stage: &Stage, program: &Program) -> bool {
    let is_nats = program
        .parts
        .iter()
        .any(|part| matches!(part, Part::Nats(_)));
    !is_nats || stage.nats_server.is_some()
}
