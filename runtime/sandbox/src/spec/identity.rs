//! Who a server is outside: an id that belongs to nobody, a subordinate one, or the user's own.
//!
//! The best id is one that owns nothing and that no other server has. Root takes one that belongs to
//! nobody on the host; an ordinary user who was given subordinate ids takes one of those; anybody else has
//! only the own one. Pure: the facts are in [`Ids`].

use palisade_policy::Policy;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ImageFacts, Mount, MountKind, ResolveError};
use crate::host::{HostSupport, IdRange, Ids, Powers, SubordinateIds};

/// The one user and group id that exist in the sandbox, and what they are outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id as the server sees it.
    pub inside_uid: u32,
    /// Group id as the server sees it.
    pub inside_gid: u32,
    /// User id as the host sees it.
    pub outside_uid: u32,
    /// Group id as the host sees it.
    pub outside_gid: u32,
    /// User id of whoever starts the sandbox.
    pub user_uid: u32,
    /// Group id of the same.
    pub user_gid: u32,
    /// Who starts the sandbox, which decides how its namespaces are made.
    pub started_by: StartedBy,
    /// How the outside id was chosen.
    pub outside: Outside,
}

/// Who starts the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartedBy {
    /// Root with its capabilities: mounts before there is a user namespace.
    Root,
    /// Anybody else: needs a user namespace to be allowed to mount. Root of a container without
    /// `CAP_SYS_ADMIN` is one of them.
    OrdinaryUser,
}

/// Whose id a server has outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "id", rename_all = "kebab-case")]
pub enum Outside {
    /// It belongs to nobody.
    Unowned,
    /// One of the subordinate ids of the user who starts it; `newuidmap` and `newgidmap` map it.
    Subordinate,
    /// The own one of whoever starts it.
    Own {
        /// Why no other.
        because: OwnId,
    },
}

/// Why a server has the id of whoever starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum OwnId {
    /// There are no subordinate ids that could be used.
    NoSubordinateIds {
        /// What is missing.
        reason: String,
    },
    /// The policy mounts something of the host, and only the user's own id has the user's rights there:
    /// an idmapped mount takes root.
    HostMounts,
    /// Root in a user namespace that has no other id, or without the capabilities to use one.
    OnlyId,
}

/// In words for people.
impl std::fmt::Display for OwnId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSubordinateIds { reason } => write!(out, "no subordinate ids, since {reason}"),
            Self::HostMounts => write!(out, "the policy mounts files that only the user may use"),
            Self::OnlyId => write!(out, "there is no other id in this container"),
        }
    }
}

impl Identity {
    /// Whether the server is told apart from the user who started it by its id.
    pub fn is_apart(&self) -> bool {
        !matches!(self.outside, Outside::Own { .. })
    }
}

/// Host ids for sandboxes that root starts: above the range that systemd hands to containers
/// (524288 to 1879048191, `systemd.io/UIDS-GIDS`) and below 2^31, where some programs see negative
/// numbers. 2^16 of them, chosen by the server's name.
const UNOWNED: IdRange = IdRange::new(0x7000_0000, 0x1_0000);

/// Ranges that systemd hands out without an entry anywhere (`systemd.io/UIDS-GIDS`): homed's users,
/// mapped users of containers, `DynamicUser=`, containers, foreign images; and the two that mean nobody.
const SYSTEMD: [IdRange; 6] = [
    IdRange::new(60_001, 513),
    IdRange::new(60_514, 64),
    IdRange::new(61_184, 4336),
    IdRange::new(65_534, 2),
    IdRange::new(524_288, 1_878_523_904),
    IdRange::new(2_147_352_576, 65_536),
];

/// Tries before a host is said to have no free id; a range of which half is taken gives one with a
/// probability of 1 - 2^-64.
const TRIES: u32 = 64;

/// In a user namespace without [`UNOWNED`]: ids below these are accounts of its own.
const ACCOUNTS: u32 = 10_000;

pub(super) fn identity(
    policy: &Policy,
    image: Option<&ImageFacts>,
    host: &HostSupport,
    mounts: &[Mount],
) -> Result<Identity, ResolveError> {
    let inside = image.map_or((0, 0), |image| (image.uid, image.gid));
    let host_mounts = mounts.iter().any(|mount| matches!(mount.kind, MountKind::Host { .. }));
    let (wanted, started_by) = choose(host, host_mounts)?;
    let (ids, outside) = outside_ids(policy.server.as_str(), host, wanted)?;
    if let Outside::Own { because } = &outside
        && host.ids.host_root
    {
        return Err(ResolveError::RootOutside { because: because.to_string() });
    }
    // Where there is one id, root mounts in a user namespace as anybody else does.
    let started_by =
        if matches!(outside, Outside::Own { .. }) { StartedBy::OrdinaryUser } else { started_by };
    Ok(Identity {
        inside_uid: inside.0,
        inside_gid: inside.1,
        outside_uid: ids.0,
        outside_gid: ids.1,
        user_uid: host.user.uid,
        user_gid: host.user.gid,
        started_by,
        outside,
    })
}

/// The user and group id outside, and whose they are.
fn outside_ids(
    server: &str,
    host: &HostSupport,
    wanted: Outside,
) -> Result<((u32, u32), Outside), ResolveError> {
    let own = (host.user.uid, host.user.gid);
    match (&wanted, &host.ids.subordinate) {
        (Outside::Subordinate, SubordinateIds::Usable { uids, gids }) => {
            Ok(((subordinate_id(server, *uids), subordinate_id(server, *gids)), wanted))
        }
        (Outside::Unowned, _) => match unowned_id(server, &host.ids) {
            Ok(id) => Ok(((id, id), wanted)),
            Err(NoId::Taken(by)) => Err(ResolveError::NoFreeId { by }),
            Err(NoId::NotHere) => Ok((own, Outside::Own { because: OwnId::OnlyId })),
        },
        (Outside::Subordinate | Outside::Own { .. }, _) => Ok((own, wanted)),
    }
}

fn choose(host: &HostSupport, host_mounts: bool) -> Result<(Outside, StartedBy), ResolveError> {
    let own = |because| Ok((Outside::Own { because }, StartedBy::OrdinaryUser));
    match host.ids.powers {
        Powers::All => Ok((Outside::Unowned, StartedBy::Root)),
        Powers::MapIds if host_mounts => own(OwnId::HostMounts),
        Powers::MapIds => Ok((Outside::Unowned, StartedBy::OrdinaryUser)),
        Powers::Nothing => Err(ResolveError::NoOwnId),
        Powers::OwnId if host.user.is_root() => own(OwnId::OnlyId),
        Powers::OwnId => match &host.ids.subordinate {
            SubordinateIds::Unusable { reason, .. } => {
                own(OwnId::NoSubordinateIds { reason: reason.clone() })
            }
            SubordinateIds::Usable { .. } if host_mounts => own(OwnId::HostMounts),
            SubordinateIds::Usable { .. } => Ok((Outside::Subordinate, StartedBy::OrdinaryUser)),
        },
    }
}

/// Why there is no id that belongs to nobody.
#[derive(Debug, PartialEq, Eq)]
enum NoId {
    /// Every one that was tried belongs to somebody; the last of them.
    Taken(String),
    /// This user namespace has too few ids.
    NotHere,
}

/// An id that belongs to no user, no group, no range of `/etc/subuid` (a container of that user) and
/// none that systemd hands out. Two servers seldom share one, so that they cannot meet through what the
/// kernel counts or keeps for each user.
fn unowned_id(server: &str, ids: &Ids) -> Result<u32, NoId> {
    let window = window(ids).ok_or(NoId::NotHere)?;
    let mut taken_by = String::new();
    for attempt in 0..TRIES {
        let id = pick(server, attempt, window);
        match owner(id, ids) {
            None => return Ok(id),
            Some(owner) => taken_by = owner,
        }
    }
    Err(NoId::Taken(taken_by))
}

/// The ids to choose from: those that are meant for it; in a container the upper half of what it has.
fn window(ids: &Ids) -> Option<IdRange> {
    let has = |range: IdRange| {
        [&ids.uids, &ids.gids].iter().all(|known| known.iter().any(|known| known.covers(range)))
    };
    if has(UNOWNED) {
        return Some(UNOWNED);
    }
    let largest = ids.uids.iter().max_by_key(|range| range.count)?;
    let half = largest.count.div_euclid(2);
    let upper = IdRange::new(largest.first.saturating_add(half), largest.count.saturating_sub(half));
    (upper.first >= ACCOUNTS && has(upper)).then_some(upper)
}

fn owner(id: u32, ids: &Ids) -> Option<String> {
    if let Some(range) = SYSTEMD.iter().find(|range| range.contains(id)) {
        return Some(format!("systemd's range from {} on", range.first));
    }
    if !ids.exists(id) {
        return Some("no id map".into());
    }
    ids.taken.iter().find(|taken| taken.range.contains(id)).map(|taken| taken.by.clone())
}

/// The upper half of the range: containers of the same user (podman, lxc) count from its beginning.
fn subordinate_id(server: &str, range: IdRange) -> u32 {
    let half = range.count.div_euclid(2);
    let upper = IdRange::new(range.first.saturating_add(half), range.count.saturating_sub(half));
    pick(server, 0, upper)
}

/// The `attempt`th choice of a server among the ids of `range`, which has at least one.
fn pick(server: &str, attempt: u32, range: IdRange) -> u32 {
    let mut hash = Sha256::new();
    hash.update(server.as_bytes());
    if attempt > 0 {
        // No name of a server holds a NUL.
        hash.update([0]);
        hash.update(attempt.to_be_bytes());
    }
    let digest = hash.finalize();
    let [a, b, c, d, ..] = *digest.as_slice() else { return range.first };
    let offset = u32::from_be_bytes([a, b, c, d]).checked_rem(range.count).unwrap_or(0);
    range.first.saturating_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ids::Taken;

    const ALL: IdRange = IdRange::new(0, u32::MAX);

    fn ids(exist: IdRange, taken: &[(IdRange, &str)]) -> Ids {
        Ids {
            uids: vec![exist],
            gids: vec![exist],
            powers: Powers::All,
            host_root: true,
            subordinate: SubordinateIds::Unusable { reason: "root needs none".into(), remedy: "none".into() },
            taken: taken.iter().map(|(range, by)| Taken { range: *range, by: (*by).into() }).collect(),
        }
    }

    #[test]
    fn servers_get_different_ids_that_stay_the_same() {
        let host = ids(ALL, &[]);
        let (a, b) = (unowned_id("a", &host).unwrap(), unowned_id("b", &host).unwrap());
        assert_ne!(a, b);
        assert_eq!(unowned_id("a", &host), Ok(a));
        assert!(UNOWNED.contains(a) && UNOWNED.contains(b));
    }

    #[test]
    fn an_id_that_belongs_to_somebody_is_not_taken() {
        let first = unowned_id("files", &ids(ALL, &[])).unwrap();
        for (range, by) in [
            (IdRange::new(first, 1), "the user `alice`"),
            (IdRange::new(first - 10, 11), "`bob` by /etc/subuid"),
        ] {
            let second = unowned_id("files", &ids(ALL, &[(range, by)])).unwrap();
            assert!(!range.contains(second) && UNOWNED.contains(second), "{by}: {second}");
        }
        // All of it: refused, and it is said who has it.
        let everything = ids(ALL, &[(UNOWNED, "`bob` by /etc/subuid")]);
        assert_eq!(unowned_id("files", &everything), Err(NoId::Taken("`bob` by /etc/subuid".into())));
    }

    #[test]
    fn what_systemd_hands_out_is_not_taken() {
        let container = ids(IdRange::new(0, 65_536), &[]);
        for server in 0..2000 {
            let id = unowned_id(&format!("server-{server}"), &container).unwrap();
            assert!((32_768..65_534).contains(&id), "{id}");
            assert!(!SYSTEMD.iter().any(|range| range.contains(id)), "{id}");
        }
        assert!(owner(61_184, &container).unwrap().contains("systemd"));
        assert!(owner(524_288, &ids(ALL, &[])).unwrap().contains("systemd"));
        assert!(!SYSTEMD.iter().any(|range| range.contains(UNOWNED.first) || UNOWNED.contains(range.first)));
    }

    #[test]
    fn a_namespace_of_few_ids_has_none_to_give() {
        for few in [IdRange::new(0, 1), IdRange::new(0, 1000), IdRange::new(1000, 1)] {
            assert_eq!(unowned_id("files", &ids(few, &[])), Err(NoId::NotHere), "{few:?}");
        }
    }

    #[test]
    fn a_subordinate_id_is_in_the_upper_half_of_the_range() {
        let range = IdRange::new(100_000, 65_536);
        let found: Vec<u32> = (0..100).map(|n| subordinate_id(&format!("server-{n}"), range)).collect();
        assert!(found.iter().all(|id| (132_768..165_536).contains(id)), "{found:?}");
        let distinct: std::collections::BTreeSet<&u32> = found.iter().collect();
        assert!(distinct.len() > 95, "{}", distinct.len());
        assert_eq!(subordinate_id("x", IdRange::new(7, 1)), 7);
    }
}
