//! Reads the configuration of a running zipper again, and applies what can change while it runs.

use std::path::PathBuf;

use selvedge_zipper::config::{Auth, Override, ZipperConfig};
use selvedge_zipper::permissions::AccessRules;
use selvedge_zipper::reload::SettingChange;
use selvedge_zipper::zipper::Zipper;

use crate::cli::error::CommandError;
use crate::cli::logging;
use crate::monitoring::Monitoring;

/// Where a configuration comes from.
#[derive(Debug, Clone)]
pub(crate) struct ConfigOrigin {
    pub(crate) file: Option<PathBuf>,
    pub(crate) overrides: Vec<Override>,
}

impl ConfigOrigin {
    /// The name of the file, for errors.
    pub(crate) fn name(&self) -> String {
        let file = self.file.as_deref();
        file.map_or_else(|| "the default".into(), |file| file.display().to_string())
    }

    pub(crate) fn load(&self) -> Result<ZipperConfig, CommandError> {
        Ok(match &self.file {
            Some(file) => ZipperConfig::load(file, &self.overrides)?,
            None => ZipperConfig::parse("", "the configuration", &self.overrides)?,
        })
    }

    /// The tokens and keys of a configuration, and those of the simple forms.
    fn access_rules(&self, config: &ZipperConfig) -> Result<AccessRules, CommandError> {
        let rules = config.auth.access_rules(&self.name(), variable)?;
        Ok(rules.unwrap_or_else(|| match &config.auth {
            Auth::Token { token } => AccessRules::simple(Some(&token.0)),
            _ => AccessRules::simple(None),
        }))
    }
}

/// An environment variable, for a token.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What a zipper runs with.
#[derive(Debug)]
pub(crate) struct Reloader {
    origin: ConfigOrigin,
    config: ZipperConfig,
    rules: AccessRules,
    /// Whether the command line sets the log level, which has precedence.
    has_log_option: bool,
}

impl Reloader {
    pub(crate) fn new(
        origin: ConfigOrigin,
        config: ZipperConfig,
        has_log_option: bool,
    ) -> Result<Self, CommandError> {
        Ok(Self {
            rules: origin.access_rules(&config)?,
            origin,
            config,
            has_log_option,
        })
    }

    /// Reads the configuration, and applies it to the zipper as far as possible. Returns what has changed.
    /// If the configuration is wrong, nothing changes.
    pub(crate) fn reload(
        &mut self,
        zipper: &Zipper,
        monitoring: Option<&Monitoring>,
    ) -> Result<Vec<SettingChange>, CommandError> {
        let later = self.origin.load()?;
        let rules = self.origin.access_rules(&later)?;
        let mut changes = self.config.changes(&later);
        // Files and environment variables of tokens may change without the configuration.
        if rules != self.rules && !changes.iter().any(|it| it.key == "auth") {
            let (key, is_applied) = ("auth", true);
            changes.push(SettingChange { key, is_applied });
        }
        for change in &mut changes {
            let is_kept = match change.key {
                // The later configuration may rely on other addresses, which need a restart.
                "auth" => later.auth == Auth::None && zipper.is_exposed(),
                "log" => self.has_log_option,
                _ => false,
            };
            change.is_applied &= !is_kept;
            if change.is_applied {
                self.apply(change.key, &later, &rules, zipper, monitoring);
            }
        }
        let keys = |is_applied| {
            let keys = changes.iter().filter(|it| it.is_applied == is_applied);
            keys.map(|it| it.key).collect::<Vec<_>>().join(", ")
        };
        let (applied, needs_restart) = (keys(true), keys(false));
        tracing::info!(applied, needs_restart, "reloaded the configuration");
        Ok(changes)
    }

    fn apply(
        &mut self,
        key: &str,
        later: &ZipperConfig,
        rules: &AccessRules,
        zipper: &Zipper,
        monitoring: Option<&Monitoring>,
    ) {
        match key {
            "auth" => {
                self.config.auth = later.auth.clone();
                self.rules = rules.clone();
                zipper.set_access(rules.clone());
            }
            "log" => {
                self.config.log = later.log;
                logging::set_level(later.log);
            }
            "limits.clients" => {
                let clients = later.limits.clients;
                self.config.limits.clients = clients;
                zipper.set_clients_max(clients);
                if let Some(monitoring) = monitoring {
                    monitoring.set_clients_max(clients);
                }
            }
            _ => {}
        }
    }
}
