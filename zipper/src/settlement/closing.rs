//! Groups of a flow whose functions do not settle any more.

use selvedge_client::settlement::InstanceId;

use super::entry::EntryFlow;
use super::group::GroupIdentity;

impl EntryFlow {
    /// Functions with these names do not settle, and receive further messages in another way: their groups are
    /// closed, except for those of instances that are listed. What a group has been sent, or may have been, is
    /// still settled.
    pub fn close_groups<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str> + Clone,
        is_listed: impl Fn(InstanceId) -> bool,
    ) {
        self.close_blocks();
        for at in 0..self.groups.len() {
            let GroupIdentity {
                name, only, until, ..
            } = &self.groups[at].recipients;
            let is_open = until.is_none() && !only.is_some_and(&is_listed);
            if is_open && names.clone().any(|it| **name == *it) {
                self.groups[at].close(self.arrived);
                self.is_changed = true;
                self.proceed(at);
            }
        }
    }

    /// Whether the source has confirmed the recipients as they are.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        !self.is_changed && self.announced == self.confirmed
    }

    /// Whether a group with that name, whose instances share the messages, receives those that arrive now.
    #[must_use]
    pub fn has_group(&self, name: &str) -> bool {
        let mut groups = self.groups.iter();
        groups.any(|it| {
            let is_it = it.recipients.only.is_none() && *it.recipients.name == *name;
            is_it && it.receives(self.arrived)
        })
    }
}
