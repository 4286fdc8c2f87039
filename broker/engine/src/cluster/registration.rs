//! A broker's process begins a life: which disks are believed, and what a new life loses
//! (KIP-631, KIP-858, KIP-866, KIP-966).

use super::{
    apply::Applied,
    command::{DirectoryReport, RegisterBroker, StartBroker},
    limits::{MAX_BROKERS, MAX_TEXT_BYTES},
    outcome::Outcome,
    partition::Partition,
    refusal::RegistrationError,
    rejection::Rejection,
    state::{Broker, BrokerId, Cluster, ExpectedDirectory, FenceReason, Topic, flushes_before_ack},
};

/// What a disk is believed to hold of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskTrust {
    /// Nothing: it is new, or nothing is proven.
    Nothing,
    /// What was flushed: the last life ended uncleanly, but it is this disk's last life, and
    /// nothing below the flushed point is damaged.
    FlushedPrefix,
    /// Everything: the last life ended cleanly.
    Everything,
}

impl DirectoryReport {
    /// What is believed of the disk of `known`, which comes with the same directory id.
    ///
    /// A disk must know the epoch of the last life that was in service, or of a later one that
    /// never was: else it is an image of an earlier time.
    fn trust(self, known: &Broker) -> DiskTrust {
        let Some(last_served) = served_until(known) else {
            // It never served: nothing was ever acknowledged by this disk.
            return DiskTrust::Everything;
        };
        let is_last_life = |epoch: Option<i64>| epoch.is_some_and(|epoch| (last_served..=known.epoch).contains(&epoch));
        if self.damaged || !is_last_life(self.last_epoch) {
            DiskTrust::Nothing
        } else if is_last_life(self.clean_shutdown_epoch) {
            DiskTrust::Everything
        } else {
            DiskTrust::FlushedPrefix
        }
    }
}

/// A disk that may serve.
struct Admitted {
    /// What it is believed to hold.
    trust: DiskTrust,
    /// Whether it was not this broker's before.
    replaced: bool,
}

impl Cluster {
    /// The registration of a cluster of one: in service at once, as metadata logs of single
    /// brokers have it.
    pub(super) fn register_broker(&mut self, index: u64, new: &RegisterBroker) -> Result<Applied, Rejection> {
        let id = new.broker_id;
        self.check_cluster_and_directory(new)?;
        match self.brokers.get(&id) {
            Some(known) if known.directory_id != new.directory_id => return Err(other_directory(known, new)),
            Some(known) if known.leased => return Err(RegistrationError::NeedsLease { id }.into()),
            // The answer to this same registration was lost, and it is asked again.
            Some(known) if known.incarnation == new.incarnation => return Ok(registered(known)),
            Some(_) => {}
            None => self.check_new_number(new)?,
        }
        let known = self.brokers.get(&id).cloned();
        let broker = begin_life(index, new, known.as_ref());
        let epoch = broker.epoch;
        self.cluster_id.clone_from(&new.cluster_id);
        self.brokers.insert(id, broker);
        self.rewrite_hosted(id, |_, _, partition, rules| {
            partition.after_restart_of_leader(id, rules.brokers)
        });
        Ok(Applied::changed(Outcome::Registered { broker_epoch: epoch }))
    }

    /// The registration of a broker that lives by a lease. It begins fenced. The life before is
    /// fenced by this very step: its epoch is refused from here on, and no partition keeps it as
    /// leader. A leader that came back under its old leader epoch could fill offsets of a lost
    /// tail with other records than followers hold, which no epoch check would see.
    pub(super) fn start_broker(&mut self, index: u64, start: &StartBroker) -> Result<Applied, Rejection> {
        let new = &start.registration;
        let id = new.broker_id;
        check_texts(start)?;
        self.check_cluster_and_directory(new)?;
        if let Some(known) = self.brokers.get(&id)
            && known.incarnation == new.incarnation
            && known.directory_id == new.directory_id
        {
            return Ok(registered(known));
        }
        let admitted = self.admit(start)?;
        self.check_replaced(start)?;

        let known = self.brokers.get(&id).cloned();
        let broker = Broker {
            internal_address: start.internal_address.clone(),
            fenced: true,
            fence_reason: Some(FenceReason::Starting),
            leased: true,
            proven: false,
            last_served_epoch: known.as_ref().filter(|_| !admitted.replaced).and_then(served_until),
            ..begin_life(index, new, known.as_ref())
        };
        let epoch = broker.epoch;
        self.cluster_id.clone_from(&new.cluster_id);
        self.removed_brokers.remove(&id);
        self.brokers.insert(id, broker);
        // The broker that was taken down is back.
        self.maintenance.take_if(|slot| slot.broker_id == id);

        let defaults = self.topic_defaults.clone();
        let served = known.as_ref().and_then(served_until);
        self.rewrite_hosted(id, |topic, _, partition, rules| {
            let keeps = match admitted.trust {
                DiskTrust::Everything => true,
                DiskTrust::FlushedPrefix => keeps_flushed_prefix(topic, partition, &defaults, served),
                DiskTrust::Nothing => false,
            };
            partition.changed(rules, |next, notes| {
                next.isr.retain(|member| *member != id);
                if admitted.replaced {
                    notes.gone.push(id);
                } else if !keeps {
                    notes.lost.push(id);
                }
            })
        });
        Ok(Applied::changed(Outcome::Registered { broker_epoch: epoch }))
    }

    /// The epoch that the registration of a starting process names as the one it replaces: the
    /// present one in this metadata, or the last one on its disk if that is later, `None` if
    /// neither knows of any. A life notes its epoch on its disk before it serves, so the restart
    /// of one that served is accepted at the first try, however old the metadata that the new
    /// process has read.
    ///
    /// Refused with `RegistrationError::EarlierLife`, a process reads the metadata up to the
    /// epoch it was told and asks again at once: an earlier life has registered and died before
    /// it could note that. Unless it met its own incarnation in that metadata: then a later
    /// process has taken its place, and it must stop.
    #[must_use]
    pub fn replaced_epoch(&self, id: BrokerId, directory: &DirectoryReport) -> Option<i64> {
        let known = self.brokers.get(&id).map(|broker| broker.epoch);
        known.max(directory.last_epoch)
    }

    /// Registrations come late and twice: one that was sent before the present life began must
    /// not end it, for its process may be long dead and its report of the disk out of date. Lives
    /// of one broker follow each other, as each holds the lock of its directory; so each names
    /// the life it found, and only the one that names the present life is the next.
    fn check_replaced(&self, start: &StartBroker) -> Result<(), RegistrationError> {
        let id = start.registration.broker_id;
        match self.brokers.get(&id).map(|known| known.epoch) {
            Some(current) if start.replaces.is_none_or(|epoch| epoch < current) => {
                Err(RegistrationError::EarlierLife { id, current })
            }
            _ => Ok(()),
        }
    }

    /// A disk is one broker's, and of this cluster (KIP-858).
    fn check_cluster_and_directory(&self, new: &RegisterBroker) -> Result<(), Rejection> {
        if !self.cluster_id.is_empty() && self.cluster_id != new.cluster_id {
            return Err(Rejection::OtherCluster {
                expected: self.cluster_id.clone(),
                found: new.cluster_id.clone(),
            });
        }
        let owner = self
            .brokers
            .values()
            .find(|broker| broker.directory_id == new.directory_id && broker.id != new.broker_id);
        if let Some(owner) = owner {
            return Err(Rejection::DirectoryOfOtherBroker {
                directory_id: new.directory_id,
                owner: owner.id,
            });
        }
        let removed = self
            .removed_brokers
            .iter()
            .find(|(_, removed)| removed.directory_id == new.directory_id);
        if let Some((owner, _)) = removed {
            let (directory_id, owner) = (new.directory_id, *owner);
            return Err(RegistrationError::DirectoryOfRemovedBroker { directory_id, owner }.into());
        }
        Ok(())
    }

    /// Whether the disk may serve as this broker's. An empty or other disk under a known number
    /// is never taken for a new broker: what it held would be taken for never written. It needs
    /// an operator's word.
    fn admit(&self, start: &StartBroker) -> Result<Admitted, Rejection> {
        let new = &start.registration;
        let id = new.broker_id;
        let permits = |expected: Option<ExpectedDirectory>| expected.is_some_and(|e| e.permits(new.directory_id));
        if let Some(known) = self.brokers.get(&id) {
            if known.directory_id == new.directory_id {
                return Ok(Admitted {
                    trust: start.directory.trust(known),
                    replaced: false,
                });
            }
            if permits(known.expected_directory) {
                return Ok(Admitted {
                    trust: DiskTrust::Nothing,
                    replaced: true,
                });
            }
            return Err(other_directory(known, new));
        }
        match self.removed_brokers.get(&id) {
            Some(removed) if !permits(removed.expected_directory) => Err(RegistrationError::Removed { id }.into()),
            _ => self.check_new_number(new).map(|()| Admitted {
                trust: DiskTrust::Nothing,
                replaced: true,
            }),
        }
    }

    fn check_new_number(&self, new: &RegisterBroker) -> Result<(), Rejection> {
        if new.broker_id < 0 {
            return Err(RegistrationError::Invalid {
                reason: format!("a broker's number is 0 or more, not {}", new.broker_id),
            }
            .into());
        }
        if self.brokers.len() >= MAX_BROKERS {
            return Err(RegistrationError::TooManyBrokers.into());
        }
        Ok(())
    }
}

/// Without a clean stop, what was flushed is still there: enough where each acknowledged record
/// was flushed first, unlike Kafka, which never flushes and must let all such replicas go. And a
/// partition's only replica is not compared with anything: what it lost no other has.
///
/// A life that began before the topic's records were flushed first may have acknowledged some that
/// were not, also after the setting had changed: it heard of it later. `served`: the epoch of the
/// last life that was in service.
fn keeps_flushed_prefix(
    topic: &Topic,
    partition: &Partition,
    defaults: &std::collections::BTreeMap<String, String>,
    served: Option<i64>,
) -> bool {
    let began_later = served.is_none_or(|epoch| epoch.unsigned_abs() > topic.flushes_since);
    !partition.is_replicated() || (flushes_before_ack(&topic.configs, defaults) && began_later)
}

/// A broker as a new life begins it; the marks that an operator set stay.
fn begin_life(index: u64, new: &RegisterBroker, known: Option<&Broker>) -> Broker {
    Broker {
        id: new.broker_id,
        epoch: i64::try_from(index).unwrap_or(i64::MAX),
        incarnation: new.incarnation,
        directory_id: new.directory_id,
        address: new.address.clone(),
        rack: new.rack.clone(),
        version: new.version.clone(),
        registered_at_ms: new.now_ms,
        fenced: false,
        fence_reason: None,
        internal_address: String::new(),
        shutting_down_at: None,
        cordoned: known.is_some_and(|known| known.cordoned),
        draining: known.is_some_and(|known| known.draining),
        leased: false,
        proven: true,
        last_served_epoch: None,
        expected_directory: None,
    }
}

/// The epoch of the broker's last life that was in service.
fn served_until(known: &Broker) -> Option<i64> {
    if known.leased {
        known.last_served_epoch
    } else {
        Some(known.epoch)
    }
}

fn registered(known: &Broker) -> Applied {
    Applied::unchanged(Outcome::Registered {
        broker_epoch: known.epoch,
    })
}

fn other_directory(known: &Broker, new: &RegisterBroker) -> Rejection {
    Rejection::OtherDirectory {
        id: known.id,
        expected: known.directory_id,
        found: new.directory_id,
    }
}

fn check_texts(start: &StartBroker) -> Result<(), Rejection> {
    let new = &start.registration;
    for (what, text) in [
        ("cluster id", &new.cluster_id),
        ("address", &new.address),
        ("internal address", &start.internal_address),
        ("rack", &new.rack),
        ("version", &new.version),
    ] {
        if text.len() > MAX_TEXT_BYTES {
            return Err(RegistrationError::Invalid {
                reason: format!("the {what} has {} bytes, more than {MAX_TEXT_BYTES}", text.len()),
            }
            .into());
        }
        // They are shown to people and looked up by programs.
        if text.chars().any(char::is_control) {
            return Err(RegistrationError::Invalid {
                reason: format!("the {what} {text:?} has control characters"),
            }
            .into());
        }
    }
    // Who only registers has no internal one.
    let internal = Some(("internal address", &start.internal_address)).filter(|(_, address)| !address.is_empty());
    for (what, address) in [("address", &new.address)].into_iter().chain(internal) {
        if !is_address(address) {
            return Err(RegistrationError::Invalid {
                reason: format!("the {what} {address:?} is not HOST:PORT"),
            }
            .into());
        }
    }
    Ok(())
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    })
}

impl Partition {
    /// A broker of a cluster of one that led this partition has begun a new life: the lead moves
    /// on, or stays under a new epoch.
    fn after_restart_of_leader(
        &self,
        id: BrokerId,
        brokers: &std::collections::BTreeMap<BrokerId, Broker>,
    ) -> Option<Self> {
        if self.leader != Some(id) {
            return None;
        }
        let usable = |other: &BrokerId| brokers.get(other).is_some_and(|broker| !broker.fenced);
        let successor = self.isr.iter().copied().find(|other| *other != id && usable(other));
        Some(Self {
            leader: Some(successor.unwrap_or(id)),
            leader_epoch: self.leader_epoch + 1,
            partition_epoch: self.partition_epoch + 1,
            ..self.clone()
        })
    }
}
