//! Who the server runs as: the server refuses to run as root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::StartError;

/// An account of this machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    user: u32,
    group: u32,
}

impl Account {
    /// Returns the account to switch to: none when this process is unprivileged already.
    pub(crate) fn unprivileged() -> Result<Option<Self>, StartError> {
        let output = Command::new("id").arg("-u").output()?;
        if output.stdout.trim_ascii() != b"0" {
            return Ok(None);
        }
        let accounts = std::fs::read_to_string("/etc/passwd")?;
        let account = ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::named(&accounts, name));
        account.map(Some).ok_or_else(|| StartError::Program {
            program: "/etc/passwd".into(),
            message: "there is no account postgres or nobody to run the server as".to_owned(),
        })
    }

    fn named(accounts: &str, name: &str) -> Option<Self> {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then_some(())?;
            let user = fields.nth(1)?.parse().ok()?;
            let group = fields.next()?.parse().ok()?;
            Some(Self { user, group })
        })
    }

    /// Gives it a directory.
    pub(crate) fn own(self, path: &Path) -> std::io::Result<()> {
        std::os::unix::fs::chown(path, Some(self.user), Some(self.group))
    }

    /// Runs the program as this account, without root's other groups.
    pub(crate) fn run(self, command: &mut Command) {
        command.uid(self.user).gid(self.group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65533:n:/:/bin/false\n";
        let nobody = Account::named(accounts, "nobody").unwrap();
        assert_eq!((nobody.user, nobody.group), (65534, 65533));
        assert!(Account::named(accounts, "no").is_none());
    }
}
