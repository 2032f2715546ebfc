"""The hub's tables (SQLAlchemy Core): SQLite in WAL mode, or PostgreSQL with the same schema.

Times are integers: milliseconds UTC (`*_ms`). `*_json` columns hold JSON text made by this package.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# SQLite gives a rowid alias (and so the fastest key) only to INTEGER PRIMARY KEY.
_serial = BigInteger().with_variant(Integer, "sqlite")

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("labels_json", Text, nullable=False),
    Column("uses_left", Integer, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("created_by", String(64), nullable=False),
    # Whether the token may enrol a device whose name is taken already; its old certificates then end.
    Column("reenroll", Boolean, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("site", String(64), nullable=False, index=True),
    Column("labels_json", Text, nullable=False),
    Column("certificate_serial", String(64), nullable=False),
    Column("certificate_expires_at_ms", BigInteger, nullable=False),
    Column("enrolled_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
    # From `state`.
    Column("online", Boolean, nullable=False, default=False),
    Column("session", BigInteger, nullable=False, default=0),
    Column("connection", BigInteger, nullable=False, default=0),
    Column("agent_version", String(32), nullable=False, default=""),
    Column("seen_at_ms", BigInteger),
    # From `reported`: the twin's reported side. `running_*` is what the device has loaded.
    Column("reported_session", BigInteger, nullable=False, default=0),
    Column("reported_revision", BigInteger, nullable=False, default=0),
    Column("reported_generation", BigInteger, nullable=False, default=0),
    # The last generation that the device refused, or rolled back from: a rollout counts it as failed.
    Column("rejected_generation", BigInteger, nullable=False, default=0),
    Column("running_digest", String(64)),
    Column("running_variant", String(64)),
    Column("running_requests", BigInteger, nullable=False, default=0),
    Column("update_phase", String(32), nullable=False, default="idle"),
    Column("update_generation", BigInteger, nullable=False, default=0),
    Column("update_target_digest", String(64)),
    Column("update_progress", Float, nullable=False, default=0.0),
    Column("update_error_json", Text),
    Column("reported_at_ms", BigInteger),
    Column("window_at_ms", BigInteger),
)

# Every certificate ever issued to a device: the revocation list is made from it.
certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(64), primary_key=True),
    Column("device", ForeignKey("devices.name"), nullable=False, index=True),
    Column("issued_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
    # Of the DER SubjectPublicKeyInfo: a device that enrols again with the same key is the same device.
    Column("public_key_sha256", String(64), nullable=False),
)

bundles = Table(
    "bundles",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("measurements", LargeBinary),
    Column("builder_key_id", String(64), nullable=False),
    # draft, staging, production, deprecated, retired
    Column("lifecycle", String(16), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("published_at_ms", BigInteger, nullable=False),
    Column("published_by", String(64), nullable=False),
    UniqueConstraint("name", "version"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("alias", String(16), primary_key=True),
    Column("digest", ForeignKey("bundles.digest"), nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
)

# The desired side of the twin. A row with published_generation < generation waits for the publisher.
desired = Table(
    "desired",
    metadata,
    Column("device", ForeignKey("devices.name"), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("digest", ForeignKey("bundles.digest")),
    Column("rollout", String(32)),
    Column("envelope", LargeBinary, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("published_generation", BigInteger, nullable=False, default=0),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("model", String(64), nullable=False),
    Column("candidate_digest", ForeignKey("bundles.digest"), nullable=False),
    Column("baseline_digest", ForeignKey("bundles.digest")),
    Column("spec_json", Text, nullable=False),
    Column("state_json", Text, nullable=False),
    Column("phase", String(32), nullable=False, index=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("created_by", String(64), nullable=False),
)

# What happened to a rollout, in order: transitions with their reasons, and each look at the evidence.
rollout_log = Table(
    "rollout_log",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("rollout", ForeignKey("rollouts.id"), nullable=False, index=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("detail_json", Text, nullable=False),
)

windows = Table(
    "windows",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("device", String(64), nullable=False),
    Column("session", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("model", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("fallbacks", BigInteger, nullable=False),
    Column("labels_seen", BigInteger, nullable=False),
    Column("labels_right", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    UniqueConstraint("device", "session", "sequence"),
)

events = Table(
    "events",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("device", String(64), nullable=False),
    Column("session", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("detail_json", Text, nullable=False),
    UniqueConstraint("device", "session", "sequence"),
)

# Counters that several role processes add to, such as `windows_duplicate`; `/metrics` shows them.
counters = Table(
    "counters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

drift_scores = Table(
    "drift_scores",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("model", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("site", String(64), nullable=False),
    Column("feature", String(64), nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("ks", Float, nullable=False),
    Column("ks_threshold", Float, nullable=False),
    Column("psi", Float, nullable=False),
    Column("psi_threshold", Float, nullable=False),
    Column("drifted", Boolean, nullable=False),
    Index("ix_drift_scores_place", "model", "site", "feature", "at_ms"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", _serial, primary_key=True),
    # What the alert is about; at most one open alert has a given key.
    Column("key", String(255), nullable=False, index=True),
    Column("rule", String(64), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("model", String(64)),
    Column("digest", String(64)),
    Column("site", String(64)),
    Column("device", String(64)),
    Column("feature", String(64)),
    Column("message", Text, nullable=False),
    Column("value", Float),
    Column("threshold", Float),
    Column("opened_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("resolved_at_ms", BigInteger),
)

# What the fallback gateway answered, by minute.
fallback_minutes = Table(
    "fallback_minutes",
    metadata,
    Column("minute_ms", BigInteger, primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("caller", String(64), primary_key=True),
    Column("reason", String(32), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("latency_ms_sum", Float, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", _serial, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("detail_json", Text, nullable=False),
)

# One-time codes that open the dashboard, and the sessions that they opened. Only hashes are stored.
login_codes = Table(
    "login_codes",
    metadata,
    Column("code_sha256", String(64), primary_key=True),
    Column("actor", String(64), nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
)

login_sessions = Table(
    "login_sessions",
    metadata,
    Column("session_sha256", String(64), primary_key=True),
    Column("actor", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
)
