-- The tables of SEF, for MySQL 8+ and MariaDB 10.6+. Rendered from sef/db/tables, which says
-- more about each; `python backend.py init-db` creates the same. Do not edit:
--     python -m sef.db.schema > schema.sql

CREATE TABLE pool_storms (
  pool_id VARCHAR(128) NOT NULL,
  began_at DATETIME(6) NOT NULL,
  latest_at DATETIME(6) NOT NULL,
  agents INTEGER NOT NULL,
  event_id BIGINT NOT NULL COMMENT 'the event that tells of it',
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (pool_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Pools that AWS took many instances of at once, the last time for each.' COLLATE utf8mb4_bin;

CREATE TABLE incidents (
  id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  subject VARCHAR(80) NOT NULL COMMENT 'the instance, or epoch-N for an agent whose instance is not known',
  kind VARCHAR(16) NOT NULL COMMENT 'interruption, loss, drill or return-to-spot' DEFAULT 'interruption',
  instance_id VARCHAR(64),
  pool_id VARCHAR(128),
  status VARCHAR(16) NOT NULL COMMENT 'open or needs_operator, then done or released; or ignored',
  open_agent_id VARCHAR(64) COMMENT 'the agent until it is over, else NULL: one open incident per agent',
  goal VARCHAR(12) NOT NULL COMMENT 'monitor, standby or switch',
  reason TEXT NOT NULL,
  obstacle TEXT COMMENT 'why it needs an operator, while it does',
  risk_score DOUBLE,
  inputs JSON,
  rebalance_at DATETIME(6),
  termination_at DATETIME(6),
  deadline DATETIME(6),
  opened_at DATETIME(6) NOT NULL,
  closed_at DATETIME(6),
  replica_id VARCHAR(40),
  new_instance_id VARCHAR(64),
  failover_time_ms INTEGER,
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (id),
  CONSTRAINT incidents_one_open UNIQUE (open_agent_id),
  CONSTRAINT incidents_open CHECK ((open_agent_id IS NOT NULL) = (status IN ('open', 'needs_operator'))),
  CONSTRAINT incidents_kind CHECK (kind IN ('interruption', 'loss', 'drill', 'return-to-spot'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row per instance that is being lost.' COLLATE utf8mb4_bin;

CREATE INDEX incidents_agent ON incidents (agent_id, opened_at);

CREATE INDEX incidents_closed ON incidents (closed_at);

CREATE INDEX incidents_pool ON incidents (pool_id, rebalance_at);

CREATE INDEX incidents_subject ON incidents (agent_id, subject, opened_at);

CREATE INDEX incidents_termination ON incidents (termination_at);

CREATE TABLE cutovers (
  id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  epoch INTEGER NOT NULL,
  incident_id VARCHAR(40),
  old_instance_id VARCHAR(64),
  new_instance_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128),
  deadline DATETIME(6) COMMENT 'when the old primary is gone; NULL: nothing presses',
  is_hurried BOOL NOT NULL COMMENT 'there was no time to await anything',
  status VARCHAR(16) NOT NULL,
  open_agent_id VARCHAR(64) COMMENT 'the agent until it is over, else NULL: one unfinished cutover per agent',
  due_at DATETIME(6) COMMENT 'when there is something to try again; NULL: over',
  started_at DATETIME(6) NOT NULL,
  traffic_moved_at DATETIME(6) COMMENT 'when the new primary had all of its targets',
  finished_at DATETIME(6),
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (id),
  CONSTRAINT cutovers_once UNIQUE (agent_id, epoch),
  CONSTRAINT cutovers_one_open UNIQUE (open_agent_id),
  CONSTRAINT cutovers_status CHECK (status IN ('running', 'needs_operator', 'done', 'superseded')),
  CONSTRAINT cutovers_open CHECK ((open_agent_id IS NOT NULL) = (status IN ('running', 'needs_operator')))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row per promotion of an agent that has cutover targets.' COLLATE utf8mb4_bin;

CREATE INDEX cutovers_due ON cutovers (due_at);

CREATE TABLE cutover_steps (
  cutover_id VARCHAR(40) NOT NULL,
  position INTEGER NOT NULL,
  stage INTEGER NOT NULL COMMENT 'those of one stage need not wait',
  kind VARCHAR(20) NOT NULL,
  target JSON,
  status VARCHAR(8) NOT NULL,
  attempts INTEGER NOT NULL,
  not_before DATETIME(6) NOT NULL,
  started_at DATETIME(6),
  finished_at DATETIME(6),
  latency_ms INTEGER COMMENT 'from its first attempt to its end',
  error TEXT COMMENT 'what the last attempt that did not finish it came to',
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (cutover_id, position),
  CONSTRAINT cutover_steps_kind CHECK (kind IN ('running', 'webhook-before', 'volume', 'network-interface', 'private-ip', 'register', 'healthy', 'elastic-ip', 'dns', 'deregister', 'webhook-after')),
  CONSTRAINT cutover_steps_status CHECK (status IN ('pending', 'done', 'failed', 'skipped'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='The steps of a cutover, in order.' COLLATE utf8mb4_bin;

CREATE TABLE spot_interruption_events (
  id BIGINT NOT NULL AUTO_INCREMENT,
  incident_id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  instance_id VARCHAR(64),
  pool_id VARCHAR(128),
  signal_type VARCHAR(32) NOT NULL,
  detected_at DATETIME(6) NOT NULL,
  signalled_at DATETIME(6) NOT NULL,
  termination_time DATETIME(6),
  times_received INTEGER NOT NULL,
  last_received_at DATETIME(6) NOT NULL,
  replica_id VARCHAR(40),
  failover_time_ms INTEGER,
  failover_completed BOOL NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT spot_interruption_events_once UNIQUE (incident_id, signal_type),
  CONSTRAINT spot_interruption_events_signal CHECK (signal_type IN ('rebalance-recommendation', 'termination-notice', 'unannounced-loss'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='The signals of AWS, one row per incident and kind.' COLLATE utf8mb4_bin;

CREATE INDEX spot_interruption_events_agent ON spot_interruption_events (agent_id, detected_at);

CREATE TABLE agents (
  id VARCHAR(64) NOT NULL,
  instance_id VARCHAR(64),
  primary_since DATETIME(6) COMMENT 'when it became the primary; NULL: at creation',
  pool_id VARCHAR(128),
  auto_switch_enabled BOOL NOT NULL DEFAULT 0,
  auto_terminate_enabled BOOL NOT NULL DEFAULT 0,
  manual_replica_enabled BOOL NOT NULL DEFAULT 0,
  launch_template VARCHAR(255),
  epoch INTEGER NOT NULL COMMENT 'counts the primaries it has had; what knows an older one changes nothing' DEFAULT 1,
  version INTEGER NOT NULL DEFAULT 1,
  not_before DATETIME(6) COMMENT 'back-off: unfinished work rests until then',
  put_off_because TEXT COMMENT 'why it rests, while it does',
  probation_until DATETIME(6) COMMENT 'a fresh primary in a risky pool has a standby',
  drill_interval INTEGER COMMENT 'seconds between drills; NULL: none',
  drilled_at DATETIME(6),
  cutover JSON COMMENT 'what follows the primary',
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT agents_one_mode CHECK (NOT (manual_replica_enabled AND (auto_switch_enabled OR auto_terminate_enabled)))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row per agent: its primary and its modes.' COLLATE utf8mb4_bin;

CREATE INDEX agents_drill ON agents (drill_interval);

CREATE INDEX agents_manual ON agents (manual_replica_enabled, id);

CREATE INDEX agents_probation ON agents (probation_until);

CREATE TABLE replica_instances (
  id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  instance_id VARCHAR(64),
  replica_type VARCHAR(24) NOT NULL,
  pool_id VARCHAR(128),
  market VARCHAR(12),
  status VARCHAR(12) NOT NULL COMMENT 'launching, ready, promoted, releasing, terminated or failed',
  reason TEXT NOT NULL,
  incident_id VARCHAR(40),
  live_agent_id VARCHAR(64) COMMENT 'the agent while launching or ready, else NULL: one live standby per agent',
  created_at DATETIME(6) NOT NULL,
  launched_at DATETIME(6),
  ready_at DATETIME(6),
  checked_at DATETIME(6),
  misses INTEGER NOT NULL COMMENT 'looks in a row that did not find it at EC2' DEFAULT 0,
  promoted_at DATETIME(6),
  terminated_at DATETIME(6),
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (id),
  CONSTRAINT replica_instances_one_live UNIQUE (live_agent_id),
  CONSTRAINT replica_instances_instance UNIQUE (instance_id),
  CONSTRAINT replica_instances_type CHECK (replica_type IN ('manual', 'automatic-rebalance', 'automatic-termination')),
  CONSTRAINT replica_instances_status CHECK (status IN ('launching', 'ready', 'promoted', 'releasing', 'terminated', 'failed')),
  CONSTRAINT replica_instances_live CHECK ((live_agent_id IS NOT NULL) = (status IN ('launching', 'ready')))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Standbys, and what became of them.' COLLATE utf8mb4_bin;

CREATE INDEX replica_instances_agent ON replica_instances (agent_id, created_at);

CREATE INDEX replica_instances_by_status ON replica_instances (status, checked_at);

CREATE TABLE launch_attempts (
  client_token VARCHAR(64) NOT NULL,
  replica_id VARCHAR(40) NOT NULL,
  attempt INTEGER NOT NULL,
  pool_id VARCHAR(128),
  market VARCHAR(12) NOT NULL,
  parameters JSON NOT NULL,
  launch_fingerprint VARCHAR(32) NOT NULL COMMENT 'digest of the parameters without what tells agents apart',
  status VARCHAR(12) NOT NULL COMMENT 'open: not answered, its effect unknown; launched; refused',
  instance_id VARCHAR(64),
  error_code VARCHAR(80),
  created_at DATETIME(6) NOT NULL,
  calls INTEGER NOT NULL COMMENT 'how often it was made, or about to be; 0: it launched nothing' DEFAULT 0,
  call_token VARCHAR(64) COMMENT 'the call that it shares with others, if it does',
  answered_at DATETIME(6),
  tagged_at DATETIME(6) COMMENT 'of a shared call: when the instance got the tags of its agent',
  PRIMARY KEY (client_token),
  CONSTRAINT launch_attempts_number UNIQUE (replica_id, attempt),
  CONSTRAINT launch_attempts_market CHECK (market IN ('spot', 'on-demand')),
  CONSTRAINT launch_attempts_status CHECK (status IN ('open', 'launched', 'refused'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Instances that are to be launched, committed before RunInstances is called.' COLLATE utf8mb4_bin;

CREATE INDEX launch_attempts_by_status ON launch_attempts (status);

CREATE INDEX launch_attempts_call ON launch_attempts (call_token, tagged_at);

CREATE INDEX launch_attempts_created ON launch_attempts (created_at);

CREATE TABLE launch_calls (
  client_token VARCHAR(64) NOT NULL,
  parameters JSON NOT NULL,
  size INTEGER NOT NULL COMMENT 'attempts that it makes, instances at most',
  calls INTEGER NOT NULL COMMENT 'how often it was made, or about to be',
  made_at DATETIME(6) NOT NULL COMMENT 'when it was for the last time',
  created_at DATETIME(6) NOT NULL,
  PRIMARY KEY (client_token),
  CONSTRAINT launch_calls_size CHECK (size > 1)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='RunInstances calls for several attempts, committed before they are made.' COLLATE utf8mb4_bin;

CREATE TABLE retirements (
  instance_id VARCHAR(64) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  reason TEXT NOT NULL,
  not_before DATETIME(6) NOT NULL,
  missed_checks INTEGER NOT NULL DEFAULT 0,
  terminated_at DATETIME(6),
  obstacle TEXT COMMENT 'why it is left running after all',
  incident_id VARCHAR(40),
  PRIMARY KEY (instance_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Former primaries that are to be terminated.' COLLATE utf8mb4_bin;

CREATE INDEX retirements_agent ON retirements (agent_id, terminated_at);

CREATE INDEX retirements_due ON retirements (terminated_at, not_before);

CREATE TABLE orphan_terminations (
  instance_id VARCHAR(64) NOT NULL,
  agent_id VARCHAR(64) COMMENT 'for whom it was launched, as far as its tags say',
  pool_id VARCHAR(128),
  decided_at DATETIME(6) NOT NULL,
  reported_at DATETIME(6) COMMENT 'when its event was written; NULL: not yet',
  PRIMARY KEY (instance_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Instances that no row has a use for and that are to be terminated.' COLLATE utf8mb4_bin;

CREATE INDEX orphan_terminations_reported ON orphan_terminations (reported_at);

CREATE TABLE unavailable_pools (
  pool_id VARCHAR(128) NOT NULL,
  market VARCHAR(12) NOT NULL,
  error_code VARCHAR(80) NOT NULL,
  until DATETIME(6) NOT NULL,
  PRIMARY KEY (pool_id, market)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Pools that had no capacity of late.' COLLATE utf8mb4_bin;

CREATE TABLE request_buckets (
  action VARCHAR(32) NOT NULL COMMENT 'RunInstances, TerminateInstances',
  tokens DOUBLE NOT NULL,
  refilled_at DATETIME(6) NOT NULL COMMENT 'the moment that tokens is about',
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (action)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='What is left in EC2''s request buckets.' COLLATE utf8mb4_bin;

CREATE TABLE pricing_reports (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  timestamp DATETIME(6) NOT NULL,
  spot_price NUMERIC(13, 9) NOT NULL,
  data_quality_flag VARCHAR(24) NOT NULL,
  processed_by VARCHAR(32) NOT NULL DEFAULT 'smart_emergency_fallback',
  primary_price NUMERIC(13, 9) COMMENT 'as the primary reported it',
  replica_price NUMERIC(13, 9) COMMENT 'as the replica reported it',
  replica_observed_at DATETIME(6),
  received_at DATETIME(6) NOT NULL,
  PRIMARY KEY (agent_id, pool_id, timestamp),
  CONSTRAINT pricing_reports_flag CHECK (data_quality_flag IN ('normal', 'averaged_dual_source', 'divergent_dual_source', 'interpolated')),
  CONSTRAINT pricing_reports_price CHECK (spot_price > 0),
  CONSTRAINT pricing_reports_real_points_are_observed CHECK ((data_quality_flag = 'interpolated') = (primary_price IS NULL AND replica_price IS NULL))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='The clean series: real and interpolated points.' COLLATE utf8mb4_bin;

CREATE TABLE pricing_hourly (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  starts_at DATETIME(6) NOT NULL,
  points INTEGER NOT NULL COMMENT 'real ones: interpolated do not count',
  min_price NUMERIC(13, 9) NOT NULL,
  max_price NUMERIC(13, 9) NOT NULL,
  mean_price NUMERIC(13, 9) NOT NULL COMMENT 'each point counts the same',
  first_price NUMERIC(13, 9) NOT NULL,
  last_price NUMERIC(13, 9) NOT NULL,
  PRIMARY KEY (agent_id, pool_id, starts_at)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='The hours of prices that are not kept any more.' COLLATE utf8mb4_bin;

CREATE TABLE pricing_daily (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  starts_at DATETIME(6) NOT NULL,
  points INTEGER NOT NULL COMMENT 'real ones: interpolated do not count',
  min_price NUMERIC(13, 9) NOT NULL,
  max_price NUMERIC(13, 9) NOT NULL,
  mean_price NUMERIC(13, 9) NOT NULL COMMENT 'each point counts the same',
  first_price NUMERIC(13, 9) NOT NULL,
  last_price NUMERIC(13, 9) NOT NULL,
  PRIMARY KEY (agent_id, pool_id, starts_at)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='The days of prices that are not kept any more.' COLLATE utf8mb4_bin;

CREATE TABLE price_series (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  version INTEGER NOT NULL,
  first_at DATETIME(6),
  latest_at DATETIME(6),
  latest_price NUMERIC(13, 9),
  latest_observed_at DATETIME(6),
  primary_heard_at DATETIME(6),
  replica_heard_at DATETIME(6),
  received_at DATETIME(6),
  waiting INTEGER NOT NULL COMMENT 'how many rows of buffered_observations belong to the series',
  PRIMARY KEY (agent_id, pool_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row per series; writing a series means updating it.' COLLATE utf8mb4_bin;

CREATE INDEX price_series_first ON price_series (first_at);

CREATE TABLE buffered_observations (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  source VARCHAR(8) NOT NULL,
  observed_at DATETIME(6) NOT NULL,
  spot_price NUMERIC(13, 9) NOT NULL,
  received_at DATETIME(6) NOT NULL,
  PRIMARY KEY (agent_id, pool_id, source, observed_at),
  CONSTRAINT buffered_observations_source CHECK (source IN ('primary', 'replica'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Reports that wait for their other half.' COLLATE utf8mb4_bin;

CREATE INDEX buffered_observations_received ON buffered_observations (received_at);

CREATE TABLE system_events (
  id BIGINT NOT NULL AUTO_INCREMENT,
  event_type VARCHAR(64) NOT NULL,
  severity VARCHAR(8) NOT NULL,
  agent_id VARCHAR(64),
  incident_id VARCHAR(40),
  message TEXT NOT NULL,
  metadata JSON,
  created_at DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT system_events_severity CHECK (severity IN ('info', 'warning', 'error'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='What SEF did, saw or refused, for people.' COLLATE utf8mb4_bin;

CREATE INDEX system_events_agent ON system_events (agent_id, id);

CREATE INDEX system_events_incident ON system_events (incident_id, id);

CREATE TABLE limit_episodes (
  name VARCHAR(32) NOT NULL COMMENT 'the setting that sets the limit',
  agent_id VARCHAR(64) NOT NULL COMMENT 'empty for a limit of the whole fleet',
  hit_at DATETIME(6) COMMENT 'the last time, about; NULL: never',
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (name, agent_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Limits against damage, and when they were hit.' COLLATE utf8mb4_bin;

CREATE TABLE notifications (
  id BIGINT NOT NULL AUTO_INCREMENT,
  thread VARCHAR(160) NOT NULL COMMENT 'the incident; without one, type, agent and hour',
  kind VARCHAR(16) NOT NULL COMMENT 'event that the notification reports',
  incident_id VARCHAR(40),
  agent_id VARCHAR(64),
  severity VARCHAR(8) NOT NULL,
  title VARCHAR(255) NOT NULL,
  body TEXT NOT NULL,
  created_at DATETIME(6) NOT NULL,
  dispatched_at DATETIME(6) COMMENT 'when the channels were given it; NULL: not yet',
  PRIMARY KEY (id),
  CONSTRAINT notifications_once UNIQUE (thread, kind),
  CONSTRAINT notifications_kind CHECK (kind IN ('recommendation', 'detection', 'switch', 'operator', 'cutover', 'outcome', 'alert')),
  CONSTRAINT notifications_severity CHECK (severity IN ('info', 'warning', 'error'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='What people are to be told.' COLLATE utf8mb4_bin;

CREATE INDEX notifications_incident ON notifications (incident_id, id);

CREATE INDEX notifications_to_dispatch ON notifications (dispatched_at, id);

CREATE TABLE notification_deliveries (
  id BIGINT NOT NULL AUTO_INCREMENT,
  notification_id BIGINT NOT NULL,
  channel VARCHAR(160) NOT NULL COMMENT 'as it is shown, without secrets',
  thread VARCHAR(160) NOT NULL,
  status VARCHAR(8) NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  next_at DATETIME(6) NOT NULL,
  claimed_until DATETIME(6) COMMENT 'somebody sends it until then; NULL: nobody',
  sent_at DATETIME(6),
  error TEXT,
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (id),
  CONSTRAINT notification_deliveries_once UNIQUE (notification_id, channel),
  CONSTRAINT notification_deliveries_status CHECK (status IN ('pending', 'sent', 'failed'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Messages on their way to the channels of SEF_NOTIFICATION_URLS.' COLLATE utf8mb4_bin;

CREATE INDEX notification_deliveries_due ON notification_deliveries (channel, status, next_at);

CREATE INDEX notification_deliveries_thread ON notification_deliveries (thread, channel, status);

CREATE TABLE idempotency_keys (
  idempotency_key VARCHAR(255) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  `call` VARCHAR(64) NOT NULL,
  answer JSON COMMENT 'NULL until the effect is committed',
  claimed_until DATETIME(6) COMMENT 'somebody works on it until then; NULL: nobody',
  created_at DATETIME(6) NOT NULL,
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (idempotency_key)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Calls that carried an Idempotency-Key, and their answers.' COLLATE utf8mb4_bin;

CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

CREATE TABLE deployment (
  one INTEGER NOT NULL COMMENT 'always 1',
  name VARCHAR(40) NOT NULL,
  PRIMARY KEY (one),
  CONSTRAINT deployment_one CHECK (one = 1)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Who this SEF is: part of the tag of its instances.' COLLATE utf8mb4_bin;

CREATE TABLE leases (
  name VARCHAR(64) NOT NULL,
  holder VARCHAR(64) NOT NULL,
  expires_at DATETIME(6) NOT NULL,
  version INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY (name)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Which process does a periodic job.' COLLATE utf8mb4_bin;
