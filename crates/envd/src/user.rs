//! Accounts of the sandbox, read from `/etc/passwd` and `/etc/group` by ourselves.
//!
//! Never through NSS: this program is static, and glibc would load whatever module the image's configuration names.

use std::collections::HashMap;
use std::fs;
use std::io;

use soulbox_linux::spawn::Credentials;

/// One account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

/// Why there is no such account.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("unknown user {0}")]
    Unknown(String),
    #[error("reading /etc/passwd")]
    Read(#[source] io::Error),
}

impl User {
    /// Looks an account up now: the database may have changed since the last request.
    pub(crate) fn find(name: &str) -> Result<Self, UserError> {
        let database = match fs::read("/etc/passwd") {
            Ok(bytes) => bytes,
            // An image from scratch has no accounts; its programs still run as root.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(UserError::Read(error)),
        };
        let database = String::from_utf8_lossy(&database);
        let found = accounts(&database).find(|user| user.name == name);
        let root = || {
            (name == "root").then(|| Self {
                name: "root".into(),
                uid: 0,
                gid: 0,
                home: "/root".into(),
            })
        };
        found
            .or_else(root)
            .ok_or_else(|| UserError::Unknown(name.to_owned()))
    }

    /// The identity its processes take: with its groups, the primary one first.
    pub(crate) fn credentials(&self) -> Credentials {
        let database = fs::read("/etc/group").unwrap_or_default();
        let groups = member_of(&String::from_utf8_lossy(&database), &self.name, self.gid);
        Credentials {
            uid: self.uid,
            gid: self.gid,
            groups,
        }
    }
}

fn accounts(database: &str) -> impl Iterator<Item = User> {
    database.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = match fields.nth(1) {
            Some("") | None => "/",
            Some(home) => home,
        };
        Some(User {
            name: name.to_owned(),
            uid,
            gid,
            home: home.to_owned(),
        })
    })
}

/// Name, number and members of each group.
fn groups(database: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    database.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn member_of(database: &str, name: &str, primary: u32) -> Vec<u32> {
    let mut all = vec![primary];
    for (_, gid, members) in groups(database) {
        if !all.contains(&gid) && members.split(',').any(|member| member == name) {
            all.push(gid);
        }
    }
    all
}

/// Names by number, for listings: read once per request, not once per entry.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub(crate) fn load() -> Self {
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        let group = fs::read("/etc/group").unwrap_or_default();
        Self::parse(
            &String::from_utf8_lossy(&passwd),
            &String::from_utf8_lossy(&group),
        )
    }

    fn parse(passwd: &str, group: &str) -> Self {
        let mut names = Self::default();
        for user in accounts(passwd) {
            // The first line wins, as in every other reader of these files.
            names.users.entry(user.uid).or_insert(user.name);
        }
        for (name, gid, _) in groups(group) {
            names.groups.entry(gid).or_insert_with(|| name.to_owned());
        }
        names
    }

    pub(crate) fn user(&self, uid: u32) -> String {
        self.users
            .get(&uid)
            .cloned()
            .unwrap_or_else(|| uid.to_string())
    }

    pub(crate) fn group(&self, gid: u32) -> String {
        self.groups
            .get(&gid)
            .cloned()
            .unwrap_or_else(|| gid.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbad line\nuser:x:1000:1000:,,,:/home/user:/bin/bash\n\
                          twin:x:1000:1000::/twin:\nnohome:x:5:6::\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:user,other\nuser:x:1000:user\nadm:x:4:syslog\n";

    #[test]
    fn accounts_are_parsed_and_bad_lines_skipped() {
        let all: Vec<User> = accounts(PASSWD).collect();
        assert_eq!(all.len(), 4);
        assert_eq!(
            all[1],
            User {
                name: "user".into(),
                uid: 1000,
                gid: 1000,
                home: "/home/user".into()
            }
        );
        assert_eq!(all[3].home, "/");
    }

    #[test]
    fn groups_of_an_account() {
        assert_eq!(member_of(GROUP, "user", 1000), [1000, 27]);
        assert_eq!(member_of("", "user", 7), [7]);
    }

    #[test]
    fn names_by_number() {
        let names = Names::parse(PASSWD, GROUP);
        assert_eq!(
            (names.user(1000), names.user(77)),
            ("user".into(), "77".into())
        );
        assert_eq!(
            (names.group(27), names.group(77)),
            ("sudo".into(), "77".into())
        );
    }

    #[test]
    fn root_is_always_there() {
        assert_eq!(User::find("root").unwrap().uid, 0);
        assert!(matches!(
            User::find("no such user"),
            Err(UserError::Unknown(_))
        ));
    }
}
