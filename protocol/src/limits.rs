//! Caps on what a caller can send, in one table.
//!
//! Each is checked before the thing it bounds is parsed or stored. Limits that an operator may
//! want to move are configuration instead; the ones here are part of the interface.

use std::time::Duration;

/// Longest model name, in bytes: room for `host/namespace/model:tag`.
pub const MODEL_NAME_BYTES_MAX: usize = 128;

/// Longest name of a node, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 64;

/// Most messages in one conversation.
pub const CHAT_MESSAGES_MAX: usize = 4096;

/// Longest client-made request id that is echoed, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Longest e-mail address, in bytes (RFC 5321: a path is 256 with its brackets).
pub const EMAIL_BYTES_MAX: usize = 254;

/// Lengths that a password can have, in bytes. The upper one bounds what hashing reads.
pub const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=1024;

/// Most entries of a list in one answer, and how many come unasked.
pub const PAGE_ITEMS_MAX: usize = 500;
/// See [`PAGE_ITEMS_MAX`].
pub const PAGE_ITEMS_DEFAULT: usize = 50;

/// Largest agent card, as compact JSON, and largest `aither-agent.yaml`, in bytes. Sixty-four
/// skills with a paragraph each fit; a card is kept in memory and gossiped.
pub const CARD_BYTES_MAX: usize = 64 * 1024;
/// Deepest nesting in a card. What it means needs five levels; unknown fields get the rest.
pub const CARD_DEPTH_MAX: usize = 32;
/// Most errors that one validation reports: more than anybody mends in one go.
pub const FIELD_ERRORS_MAX: usize = 100;
/// Most signatures on a card: one by each key of a node that changes its own.
pub const CARD_SIGNATURES_MAX: usize = 8;

/// Longest agent name, in bytes: a label of the domain name system has 63, the platform says 64.
pub const AGENT_NAME_BYTES_MAX: usize = 64;
/// Longest version of an agent, in bytes.
pub const VERSION_BYTES_MAX: usize = 64;
/// Longest description of an agent or a skill, in bytes: about a page.
pub const DESCRIPTION_BYTES_MAX: usize = 4096;
/// Longest author, in bytes.
pub const AUTHOR_BYTES_MAX: usize = 128;
/// Most capabilities that a card may list. There are fewer; repeating one is harmless.
pub const CAPABILITIES_MAX: usize = 64;
/// Most skills of an agent.
pub const SKILLS_MAX: usize = 64;
/// Longest skill id, in bytes.
pub const SKILL_ID_BYTES_MAX: usize = 64;
/// Longest skill name, in bytes.
pub const SKILL_NAME_BYTES_MAX: usize = 128;
/// Most tags of a skill.
pub const TAGS_MAX: usize = 32;
/// Longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// Most examples of a skill.
pub const EXAMPLES_MAX: usize = 16;
/// Longest example, in bytes.
pub const EXAMPLE_BYTES_MAX: usize = 1024;
/// Most endpoints of an agent.
pub const ENDPOINTS_MAX: usize = 64;
/// Longest description of an endpoint, in bytes.
pub const ENDPOINT_DESCRIPTION_BYTES_MAX: usize = 1024;
/// Longest path of an endpoint or of a file of an agent, in bytes.
pub const PATH_BYTES_MAX: usize = 256;
/// Longest URL, in bytes: what every HTTP client and proxy still takes.
pub const URL_BYTES_MAX: usize = 2048;

/// What a card may say that its agent costs per request, in whole tokens.
pub const TOKEN_COST_PER_REQUEST: std::ops::RangeInclusive<u64> = 1..=50;
/// How many requests at once a card may say that its agent takes.
pub const AGENT_REQUESTS_CONCURRENT: std::ops::RangeInclusive<u64> = 1..=1024;
/// How many seconds may lie between two health checks: not so few that the check is the load, and
/// not so many that a dead agent stays listed for days.
pub const HEALTH_INTERVAL_SECONDS: std::ops::RangeInclusive<u64> = 1..=24 * 60 * 60;
/// Largest amount of memory that a card may ask for, in bytes: far above any machine.
pub const MEMORY_SIZE_MAX: u64 = 1_000_000_000_000_000;
/// Longest text of a capability token, in bytes: with its header it fits the 8 KiB that most
/// servers and proxies give a request's head.
pub const CAPABILITY_TOKEN_BYTES_MAX: usize = 4096;

/// Most caveats of a capability token.
pub const CAPABILITY_CAVEATS_MAX: usize = 32;

/// Most allowances of a capability token. Each payment is held against every one of them.
pub const CAPABILITY_ALLOWANCES_MAX: usize = 4;

/// Longest name of a sub-agent in a capability token, in bytes.
pub const CAPABILITY_AGENT_BYTES_MAX: usize = 64;

/// Most skills that one caveat lists.
pub const CAPABILITY_SKILLS_MAX: usize = 64;

/// Longest skill id that a caveat lists, in bytes.
pub const CAPABILITY_SKILL_BYTES_MAX: usize = 64;

/// Longest prefix of memory keys that a caveat demands, in bytes.
pub const CAPABILITY_KEY_PREFIX_BYTES_MAX: usize = 512;

/// Most fields of a signed record.
pub const RECORD_FIELDS_MAX: usize = 32;
/// How far the clocks of two nodes may be apart. What seems to come from later is refused.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(10 * 60);

/// Longest ad, in bytes with its signature. A typical one has some 230; this is one with the most
/// skills, the longest name, and room for fields to come.
pub const AD_BYTES_MAX: usize = 1024;
/// Longest life of an ad.
pub const AD_LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of a tombstone: longer than any ad that it buries, however the clocks of the two were set.
pub const TOMBSTONE_LIFE: Duration = Duration::from_secs(25 * 60 * 60);
/// Most skills of an ad.
pub const AD_SKILLS_MAX: usize = SKILLS_MAX;

/// Longest life of a certificate that grants membership.
pub const CERTIFICATE_LIFE_MAX: Duration = Duration::from_secs(72 * 60 * 60);
/// Longest life of a certificate that only makes an issuer.
pub const ISSUER_CERTIFICATE_LIFE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Longest certificate, in bytes with its signature. Today's have some 200.
pub const CERTIFICATE_BYTES_MAX: usize = 512;
/// Longest proof of a membership: two certificates, and what holds them together.
pub const MEMBERSHIP_BYTES_MAX: usize = 2 * CERTIFICATE_BYTES_MAX + 16;
/// Longest revocation, in bytes with its signature. Today's have some 190.
pub const REVOCATION_BYTES_MAX: usize = 384;
/// Most revocations that a federation's root signs, lifted ones included.
pub const ROOT_REVOCATIONS_MAX: u64 = 8192;
/// Most revocations that an issuer signs. The root can take over what it honours.
pub const ISSUER_REVOCATIONS_MAX: u64 = 256;
/// Most issuers whose revocations are kept.
pub const REVOKING_ISSUERS_MAX: usize = 64;
/// Most revocations in one message of a handshake.
pub const REVOCATIONS_PER_MESSAGE_MAX: usize = 64;
/// Longest message of revocations, in bytes: each with a certificate of its own.
pub const REVOCATION_BATCH_BYTES_MAX: usize =
    REVOCATIONS_PER_MESSAGE_MAX * (REVOCATION_BYTES_MAX + CERTIFICATE_BYTES_MAX + 6) + 16;

/// Most federations that one hello names.
pub const HELLO_FEDERATIONS_MAX: usize = 6;
/// Longest hello, in bytes: as many memberships and summaries of revocations, all at their longest.
pub const HELLO_BYTES_MAX: usize = 32 * 1024;
/// How long after its end a certificate is renewed without an invite.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Most open invites of one issuer.
pub const OPEN_INVITES_MAX: usize = 1024;
/// Most nodes that one invite lets in.
pub const INVITE_USES_MAX: u32 = 1000;
/// Longest life of an invite.
pub const INVITE_LIFE_MAX: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Most bootstrap addresses of an invite.
pub const INVITE_ADDRESSES_MAX: usize = 8;
/// Longest bootstrap address, in bytes: a name of the domain name system has up to 253, a relay's
/// peer id and its own another 60 each.
pub const ADDRESS_BYTES_MAX: usize = 448;
/// Longest invite, in bytes before it is written as text: a few addresses of usual length.
pub const INVITE_BYTES_MAX: usize = 1500;

/// Longest message of a reconciliation, in bytes.
pub const RECONCILIATION_BYTES_MAX: usize = 256 * 1024;
/// Most ranges of one message.
pub const RECONCILIATION_RANGES_MAX: usize = 4096;
/// Most ads of one message.
pub const RECONCILIATION_RECORDS_MAX: usize = 4096;
/// Most ads that one side takes in one reconciliation: more than a directory holds.
pub const RECONCILIATION_TAKEN_MAX: usize = 400_000;
/// Most messages of one reconciliation, of both sides together: with them, some hundred thousand
/// ads can change sides.
pub const RECONCILIATION_TURNS_MAX: usize = 1024;
