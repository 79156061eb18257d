//! What differs between two configurations of one zipper, and which part can change while it runs.

use super::ZipperConfig;
use crate::reload::SettingChange;

impl ZipperConfig {
    /// The settings that differ in a later configuration. Tokens and log level change at once, and so does
    /// the limit of clients; the others with the next start. The tokens of files and variables are not
    /// compared here.
    #[must_use]
    pub fn changes(&self, later: &Self) -> Vec<SettingChange> {
        let (old, new) = (&self.limits, &later.limits);
        let settings = [
            ("name", self.name != later.name, false),
            ("identity", self.identity != later.identity, false),
            ("listen", self.addresses() != later.addresses(), false),
            ("auth", self.auth != later.auth, true),
            ("mesh", self.mesh != later.mesh, false),
            ("log", self.log != later.log, true),
            ("metrics", self.metrics != later.metrics, false),
            ("limits.clients", old.clients != new.clients, true),
            ("limits.workers", old.workers != new.workers, false),
            ("limits.spin_us", old.spin_us != new.spin_us, false),
            (
                "limits.send_buffer_bytes",
                old.send_buffer_bytes != new.send_buffer_bytes,
                false,
            ),
            (
                "limits.message_max_bytes",
                old.message_max_bytes != new.message_max_bytes,
                false,
            ),
            (
                "limits.stalled_max",
                old.stalled_max != new.stalled_max,
                false,
            ),
            (
                "limits.function_depth",
                old.function_depth != new.function_depth,
                false,
            ),
        ];
        let changed = settings
            .into_iter()
            .filter(|(_, is_changed, _)| *is_changed);
        changed
            .map(|(key, _, is_applied)| SettingChange { key, is_applied })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_differs_is_named_with_whether_it_changes_at_once() {
        let parse = |text: &str| ZipperConfig::parse(text, "zipper.yaml", &[]).unwrap();
        let node = "ab".repeat(32);
        let old = parse("name: a\n");
        assert_eq!(old.changes(&old), []);
        for (text, expected) in [
            ("name: b".to_owned(), ("name", false)),
            ("name: a\nidentity: a.key".into(), ("identity", false)),
            ("name: a\nport: 1".into(), ("listen", false)),
            (
                "name: a\nauth: {type: token, token: x}".into(),
                ("auth", true),
            ),
            (
                format!("name: a\nmesh: {{b: {{node: {node}}}}}"),
                ("mesh", false),
            ),
            ("name: a\nlog: debug".into(), ("log", true)),
            ("name: a\nmetrics: 127.0.0.1:1".into(), ("metrics", false)),
            (
                "name: a\nlimits: {clients: 1}".into(),
                ("limits.clients", true),
            ),
            (
                "name: a\nlimits: {workers: 2}".into(),
                ("limits.workers", false),
            ),
            (
                "name: a\nlimits: {spin_us: 2}".into(),
                ("limits.spin_us", false),
            ),
            (
                "name: a\nlimits: {send_buffer_bytes: 65536}".into(),
                ("limits.send_buffer_bytes", false),
            ),
            (
                "name: a\nlimits: {message_max_bytes: 65536}".into(),
                ("limits.message_max_bytes", false),
            ),
            (
                "name: a\nlimits: {stalled_max: 20}".into(),
                ("limits.stalled_max", false),
            ),
            (
                "name: a\nlimits: {function_depth: 20}".into(),
                ("limits.function_depth", false),
            ),
        ] {
            let changes = old.changes(&parse(&text));
            let changes: Vec<_> = changes.iter().map(|it| (it.key, it.is_applied)).collect();
            assert_eq!(changes, [expected], "{text}");
        }
    }
}
