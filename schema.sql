-- The tables of SEF, for MySQL 8+ and MariaDB 10.6+. `python backend.py init-db` creates the same.
-- Rendered from sef/db/tables; do not edit, but run:
--     python -m sef.db.schema > schema.sql

-- Public: your own SQL may read these five tables. All times are UTC.

CREATE TABLE agents (
  id VARCHAR(64) NOT NULL,
  instance_id VARCHAR(64) COMMENT 'primary; NULL if unknown',
  primary_since DATETIME(6) COMMENT 'time when it became the primary; NULL: when the agent was created',
  pool_id VARCHAR(128) COMMENT 'spot pool of the primary',
  auto_switch_enabled BOOL NOT NULL COMMENT 'switch after a rebalance recommendation' DEFAULT 0,
  auto_terminate_enabled BOOL NOT NULL COMMENT 'terminate the old primary after automatic switches' DEFAULT 0,
  manual_replica_enabled BOOL NOT NULL COMMENT 'always keep a standby; an operator switches' DEFAULT 0,
  launch_template VARCHAR(255) COMMENT 'NULL: SEF_LAUNCH_TEMPLATE',
  epoch BIGINT NOT NULL COMMENT 'incremented with each new primary; commands of an older epoch have no effect' DEFAULT 1,
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  not_before DATETIME(6) COMMENT 'earliest retry of unfinished work',
  put_off_because TEXT COMMENT 'reason why the work was postponed until then',
  probation_until DATETIME(6) COMMENT 'until then the new primary keeps a standby',
  drill_interval BIGINT COMMENT 'seconds between drills; NULL: no drills',
  drilled_at DATETIME(6) COMMENT 'start of the last drill',
  cutover JSON COMMENT 'targets that follow the primary',
  created_at DATETIME(6) NOT NULL,
  updated_at DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT agents_one_mode CHECK (NOT (manual_replica_enabled AND (auto_switch_enabled OR auto_terminate_enabled)))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row for each agent: its primary and its modes.' COLLATE utf8mb4_bin;

CREATE INDEX agents_drill ON agents (drill_interval);

CREATE INDEX agents_instance ON agents (instance_id);

CREATE INDEX agents_manual ON agents (manual_replica_enabled, id);

CREATE INDEX agents_probation ON agents (probation_until);

CREATE TABLE replica_instances (
  id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  instance_id VARCHAR(64) COMMENT 'NULL until EC2 has launched it',
  replica_type VARCHAR(24) NOT NULL COMMENT 'manual, automatic-rebalance or automatic-termination',
  pool_id VARCHAR(128) COMMENT 'pool of the latest launch attempt',
  market VARCHAR(12) COMMENT 'spot or on-demand, in the latest attempt',
  status VARCHAR(12) NOT NULL COMMENT 'launching, ready, promoted, releasing, terminated or failed; see docs/glossary.md',
  reason TEXT NOT NULL COMMENT 'reason for the latest status',
  incident_id VARCHAR(40) COMMENT 'incident for which it was launched',
  live_agent_id VARCHAR(64) COMMENT 'agent_id while it is the agent''s standby, launching or ready, else NULL; unique: one standby per agent',
  relief_agent_id VARCHAR(64) COMMENT 'agent_id while it launches beside a standby that is slow or has a recommendation; unique: one relief per agent',
  relief_not_before DATETIME(6) COMMENT 'earliest launch of a relief; NULL: none was decided',
  recommended_at DATETIME(6) COMMENT 'arrival of the latest recommendation for it',
  created_at DATETIME(6) NOT NULL,
  launched_at DATETIME(6),
  ready_at DATETIME(6) COMMENT 'time when EC2 reported the instance as running',
  checked_at DATETIME(6) COMMENT 'last health check',
  misses BIGINT NOT NULL COMMENT 'consecutive health checks in which EC2 did not show the instance' DEFAULT 0,
  promoted_at DATETIME(6),
  call_at DATETIME(6) COMMENT 'while releasing: committed before TerminateInstances; NULL: not yet',
  terminated_at DATETIME(6),
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (id),
  CONSTRAINT replica_instances_one_live UNIQUE (live_agent_id),
  CONSTRAINT replica_instances_one_relief UNIQUE (relief_agent_id),
  CONSTRAINT replica_instances_instance UNIQUE (instance_id),
  CONSTRAINT replica_instances_type CHECK (replica_type IN ('manual', 'automatic-rebalance', 'automatic-termination')),
  CONSTRAINT replica_instances_status CHECK (status IN ('launching', 'ready', 'promoted', 'releasing', 'terminated', 'failed')),
  CONSTRAINT replica_instances_live CHECK ((live_agent_id IS NOT NULL OR relief_agent_id IS NOT NULL) = (status IN ('launching', 'ready'))),
  CONSTRAINT replica_instances_relief CHECK (relief_agent_id IS NULL OR (live_agent_id IS NULL AND status = 'launching'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Replicas: standbys, and former standbys with their result.' COLLATE utf8mb4_bin;

CREATE INDEX replica_instances_agent ON replica_instances (agent_id, created_at);

CREATE INDEX replica_instances_by_status ON replica_instances (status, checked_at);

CREATE INDEX replica_instances_recommended ON replica_instances (recommended_at);

CREATE TABLE pricing_reports (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  timestamp DATETIME(6) NOT NULL,
  spot_price NUMERIC(13, 9) NOT NULL COMMENT 'USD per hour',
  data_quality_flag VARCHAR(24) NOT NULL COMMENT 'normal, averaged_dual_source, divergent_dual_source or interpolated',
  processed_by VARCHAR(32) NOT NULL DEFAULT 'smart_emergency_fallback',
  primary_price NUMERIC(13, 9) COMMENT 'price that the primary reported',
  replica_price NUMERIC(13, 9) COMMENT 'price that the replica reported',
  replica_observed_at DATETIME(6) COMMENT 'time of the replica''s observation',
  received_at DATETIME(6) NOT NULL COMMENT 'time when the point was last written',
  PRIMARY KEY (agent_id, pool_id, timestamp),
  CONSTRAINT pricing_reports_flag CHECK (data_quality_flag IN ('normal', 'averaged_dual_source', 'divergent_dual_source', 'interpolated')),
  CONSTRAINT pricing_reports_price CHECK (spot_price > 0),
  CONSTRAINT pricing_reports_real_points_are_observed CHECK ((data_quality_flag = 'interpolated') = (primary_price IS NULL AND replica_price IS NULL))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Clean price series: real and interpolated points.' COLLATE utf8mb4_bin;

CREATE TABLE spot_interruption_events (
  id BIGINT NOT NULL AUTO_INCREMENT,
  incident_id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  instance_id VARCHAR(64),
  pool_id VARCHAR(128),
  signal_type VARCHAR(32) NOT NULL COMMENT 'rebalance-recommendation, termination-notice or unannounced-loss',
  detected_at DATETIME(6) NOT NULL COMMENT 'first arrival at SEF',
  signalled_at DATETIME(6) NOT NULL COMMENT 'latest time in the signal, by AWS',
  termination_time DATETIME(6) COMMENT 'announced end of the instance',
  times_received BIGINT NOT NULL,
  last_received_at DATETIME(6) NOT NULL,
  replica_id VARCHAR(40) COMMENT 'replica that was promoted because of the signal',
  failover_time_ms BIGINT COMMENT 'from detected_at to the promotion',
  failover_completed BOOL NOT NULL COMMENT 'true if the signal caused a promotion',
  PRIMARY KEY (id),
  CONSTRAINT spot_interruption_events_once UNIQUE (incident_id, signal_type),
  CONSTRAINT spot_interruption_events_signal CHECK (signal_type IN ('rebalance-recommendation', 'termination-notice', 'unannounced-loss'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Signals: one row for each incident and signal type, however often it arrived.' COLLATE utf8mb4_bin;

CREATE INDEX spot_interruption_events_agent ON spot_interruption_events (agent_id, detected_at);

CREATE TABLE system_events (
  id BIGINT NOT NULL AUTO_INCREMENT,
  event_type VARCHAR(64) NOT NULL,
  severity VARCHAR(8) NOT NULL COMMENT 'info, warning or error',
  agent_id VARCHAR(64) COMMENT 'NULL for an event that concerns no single agent',
  incident_id VARCHAR(40),
  message TEXT NOT NULL,
  metadata JSON COMMENT 'details for programs',
  created_at DATETIME(6) NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT system_events_severity CHECK (severity IN ('info', 'warning', 'error'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='History: actions, findings and rejections of SEF, as sentences.' COLLATE utf8mb4_bin;

CREATE INDEX system_events_agent ON system_events (agent_id, id);

CREATE INDEX system_events_incident ON system_events (incident_id, id);

-- Internal: only SEF uses these tables.

CREATE TABLE agent_instances (
  agent_id VARCHAR(64) NOT NULL,
  instance_id VARCHAR(64) NOT NULL COMMENT 'empty: reports that named no instance',
  heard_at DATETIME(6) COMMENT 'latest time of its reports, at most 30 s behind',
  primary_until DATETIME(6) COMMENT 'time when it ceased to be the agent''s primary',
  gone_since DATETIME(6) COMMENT 'when EC2 first showed it gone while others reported',
  PRIMARY KEY (agent_id, instance_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row for each instance that reported for an agent, or that was its primary.' COLLATE utf8mb4_bin;

CREATE INDEX agent_instances_heard ON agent_instances (heard_at);

CREATE TABLE price_series (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  version BIGINT NOT NULL COMMENT 'incremented by each writer, which compares it with the version it read',
  first_at DATETIME(6) COMMENT 'time of the first point',
  latest_at DATETIME(6) COMMENT 'time of the last point',
  latest_price NUMERIC(13, 9) COMMENT 'price of the last point',
  latest_observed_at DATETIME(6) COMMENT 'time of the last observation in a point',
  widest_fill_ms BIGINT NOT NULL COMMENT 'width of the widest gap that was ever filled' DEFAULT 0,
  replica_heard_at DATETIME(6) COMMENT 'arrival of the replica''s last report',
  received_at DATETIME(6) COMMENT 'arrival of the last report of either',
  waiting BIGINT NOT NULL COMMENT 'number of its rows in buffered_observations',
  PRIMARY KEY (agent_id, pool_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row for each series of an agent and a pool.' COLLATE utf8mb4_bin;

CREATE INDEX price_series_first ON price_series (first_at);

CREATE TABLE buffered_observations (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  source VARCHAR(8) NOT NULL COMMENT 'primary or replica',
  observed_at DATETIME(6) NOT NULL,
  spot_price NUMERIC(13, 9) NOT NULL,
  received_at DATETIME(6) NOT NULL,
  PRIMARY KEY (agent_id, pool_id, source, observed_at),
  CONSTRAINT buffered_observations_source CHECK (source IN ('primary', 'replica'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Observations that wait for the second one of their pair.' COLLATE utf8mb4_bin;

CREATE INDEX buffered_observations_received ON buffered_observations (received_at);

CREATE TABLE pricing_hourly (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  starts_at DATETIME(6) NOT NULL,
  points BIGINT NOT NULL COMMENT 'number of real points',
  min_price NUMERIC(13, 9) NOT NULL,
  max_price NUMERIC(13, 9) NOT NULL,
  mean_price NUMERIC(13, 9) NOT NULL COMMENT 'mean of the real points',
  first_price NUMERIC(13, 9) NOT NULL,
  last_price NUMERIC(13, 9) NOT NULL,
  PRIMARY KEY (agent_id, pool_id, starts_at)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Prices older than the retention, summarized by hour.' COLLATE utf8mb4_bin;

CREATE TABLE pricing_daily (
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) NOT NULL,
  starts_at DATETIME(6) NOT NULL,
  points BIGINT NOT NULL COMMENT 'number of real points',
  min_price NUMERIC(13, 9) NOT NULL,
  max_price NUMERIC(13, 9) NOT NULL,
  mean_price NUMERIC(13, 9) NOT NULL COMMENT 'mean of the real points',
  first_price NUMERIC(13, 9) NOT NULL,
  last_price NUMERIC(13, 9) NOT NULL,
  PRIMARY KEY (agent_id, pool_id, starts_at)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Prices older than the retention, summarized by day.' COLLATE utf8mb4_bin;

CREATE TABLE incidents (
  id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  subject VARCHAR(80) NOT NULL COMMENT 'instance id, or epoch-N if the instance of the agent is unknown',
  kind VARCHAR(16) NOT NULL COMMENT 'interruption, loss, drill or return-to-spot' DEFAULT 'interruption',
  instance_id VARCHAR(64) COMMENT 'instance that is being lost',
  pool_id VARCHAR(128) COMMENT 'spot pool of that instance',
  status VARCHAR(16) NOT NULL COMMENT 'open, needs_operator, done, released or ignored; see docs/glossary.md',
  open_agent_id VARCHAR(64) COMMENT 'agent_id while open or needs_operator, else NULL; unique: one open per agent',
  goal VARCHAR(12) NOT NULL COMMENT 'monitor, standby or switch; only rises',
  reason TEXT NOT NULL COMMENT 'latest decision, as a sentence',
  obstacle TEXT COMMENT 'cause to remove while the status is needs_operator',
  risk_score DOUBLE COMMENT 'estimated risk of an interruption, 0 to 1',
  inputs JSON COMMENT 'values on which the latest decision is based',
  rebalance_at DATETIME(6) COMMENT 'arrival of the rebalance recommendation',
  termination_at DATETIME(6) COMMENT 'arrival of the notice, or detection of the loss',
  deadline DATETIME(6) COMMENT 'time at which AWS terminates the instance',
  opened_at DATETIME(6) NOT NULL,
  closed_at DATETIME(6),
  replica_id VARCHAR(40) COMMENT 'replica that was promoted',
  new_instance_id VARCHAR(64) COMMENT 'primary after the promotion',
  failover_time_ms BIGINT COMMENT 'from arrival of the signal, or start of a planned switchover, to promotion',
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (id),
  CONSTRAINT incidents_one_open UNIQUE (open_agent_id),
  CONSTRAINT incidents_open CHECK ((open_agent_id IS NOT NULL) = (status IN ('open', 'needs_operator'))),
  CONSTRAINT incidents_kind CHECK (kind IN ('interruption', 'loss', 'drill', 'return-to-spot'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row for each instance that is being lost, or for each planned switchover.' COLLATE utf8mb4_bin;

CREATE INDEX incidents_agent ON incidents (agent_id, opened_at);

CREATE INDEX incidents_closed ON incidents (closed_at);

CREATE INDEX incidents_instance ON incidents (instance_id, opened_at);

CREATE INDEX incidents_pool ON incidents (pool_id, rebalance_at);

CREATE INDEX incidents_subject ON incidents (agent_id, subject, opened_at);

CREATE INDEX incidents_termination ON incidents (termination_at);

CREATE TABLE pool_storms (
  pool_id VARCHAR(128) NOT NULL,
  began_at DATETIME(6) NOT NULL COMMENT 'first termination of the storm',
  latest_at DATETIME(6) NOT NULL COMMENT 'last termination of the storm',
  agents BIGINT NOT NULL COMMENT 'number of agents with an interruption',
  event_id BIGINT NOT NULL COMMENT 'row of system_events for the storm',
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (pool_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='The latest storm of each pool: interruptions of several agents at the same time.' COLLATE utf8mb4_bin;

CREATE TABLE launch_attempts (
  client_token VARCHAR(64) NOT NULL,
  replica_id VARCHAR(40) NOT NULL,
  attempt BIGINT NOT NULL COMMENT 'number of the attempt for this replica',
  pool_id VARCHAR(128),
  market VARCHAR(12) NOT NULL,
  parameters JSON NOT NULL,
  launch_fingerprint VARCHAR(32) NOT NULL COMMENT 'digest of the parameters that do not depend on the agent',
  status VARCHAR(12) NOT NULL COMMENT 'open: no answer yet, the effect is unknown; launched; refused',
  instance_id VARCHAR(64),
  error_code VARCHAR(80) COMMENT 'error code of EC2 if refused',
  created_at DATETIME(6) NOT NULL,
  calls BIGINT NOT NULL COMMENT 'number of calls, counted before each; 0: nothing was launched' DEFAULT 0,
  called_at DATETIME(6) COMMENT 'time of the first call; NULL: none was made',
  call_token VARCHAR(64) COMMENT 'row of launch_calls; NULL: a call for this attempt alone',
  answered_at DATETIME(6),
  tagged_at DATETIME(6) COMMENT 'in a shared call: time when the instance got the tags of its agent',
  attributes JSON COMMENT 'attributes that are set after the launch, such as SourceDestCheck',
  attributes_set_at DATETIME(6) COMMENT 'time when EC2 accepted or refused them',
  PRIMARY KEY (client_token),
  CONSTRAINT launch_attempts_number UNIQUE (replica_id, attempt),
  CONSTRAINT launch_attempts_market CHECK (market IN ('spot', 'on-demand')),
  CONSTRAINT launch_attempts_status CHECK (status IN ('open', 'launched', 'refused'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Launch attempts, committed before RunInstances is called.' COLLATE utf8mb4_bin;

CREATE INDEX launch_attempts_by_status ON launch_attempts (status);

CREATE INDEX launch_attempts_call ON launch_attempts (call_token, tagged_at);

CREATE INDEX launch_attempts_created ON launch_attempts (created_at);

CREATE TABLE launch_calls (
  client_token VARCHAR(64) NOT NULL,
  parameters JSON NOT NULL,
  size BIGINT NOT NULL COMMENT 'number of attempts, maximum of instances',
  calls BIGINT NOT NULL COMMENT 'number of calls, counted before each',
  made_at DATETIME(6) NOT NULL COMMENT 'time of the last call',
  created_at DATETIME(6) NOT NULL,
  PRIMARY KEY (client_token),
  CONSTRAINT launch_calls_size CHECK (size > 1)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='RunInstances calls that serve several launch attempts, committed before the call.' COLLATE utf8mb4_bin;

CREATE TABLE unavailable_pools (
  pool_id VARCHAR(128) NOT NULL,
  market VARCHAR(12) NOT NULL,
  error_code VARCHAR(80) NOT NULL COMMENT 'reason for the cooldown',
  until DATETIME(6) NOT NULL COMMENT 'end of the cooldown',
  PRIMARY KEY (pool_id, market)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Cooldowns of pools after a capacity error or an interruption.' COLLATE utf8mb4_bin;

CREATE TABLE request_buckets (
  action VARCHAR(32) NOT NULL COMMENT 'RunInstances or TerminateInstances',
  tokens DOUBLE NOT NULL COMMENT 'tokens left at refilled_at',
  refilled_at DATETIME(6) NOT NULL,
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (action)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Token buckets of EC2''s request rate limits, as SEF estimates them.' COLLATE utf8mb4_bin;

CREATE TABLE retirements (
  instance_id VARCHAR(64) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128),
  market VARCHAR(12) COMMENT 'NULL: SEF did not launch it',
  was_primary BOOL NOT NULL COMMENT 'false: a surplus instance of a batched launch' DEFAULT 0,
  reason TEXT NOT NULL COMMENT 'reason why the agent no longer needs it',
  since DATETIME(6) NOT NULL COMMENT 'time from which it was not needed',
  terminate_after DATETIME(6) COMMENT 'end of the drain; NULL: AWS or the operator terminates it',
  kept_because TEXT COMMENT 'reason why it still runs, as of the last pass',
  not_before DATETIME(6) COMMENT 'earliest next attempt to terminate it',
  checked_at DATETIME(6) COMMENT 'last health check',
  missed_checks BIGINT NOT NULL COMMENT 'consecutive checks in which EC2 did not show the instance' DEFAULT 0,
  call_at DATETIME(6) COMMENT 'committed before TerminateInstances; from then on it cannot become a primary',
  terminated_at DATETIME(6) COMMENT 'time when it was known to have ended',
  incident_id VARCHAR(40),
  stopped_at DATETIME(6) COMMENT 'time when AWS was first seen to have stopped it',
  spot_request_id VARCHAR(40) COMMENT 'spot request that launched it; NULL: unknown',
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (instance_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Former primaries and surplus instances: kept for a reason, or terminated.' COLLATE utf8mb4_bin;

CREATE INDEX retirements_agent ON retirements (agent_id, terminated_at);

CREATE INDEX retirements_checks ON retirements (terminated_at, checked_at);

CREATE INDEX retirements_due ON retirements (terminated_at, terminate_after);

CREATE TABLE ordered_ends (
  instance_id VARCHAR(64) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  ordered_at DATETIME(6) NOT NULL,
  PRIMARY KEY (instance_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Instances that SEF is to terminate although they hold targets.' COLLATE utf8mb4_bin;

CREATE TABLE named_devices (
  resource_id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  dropped_at DATETIME(6) COMMENT 'time when it was no longer a target; NULL: it is one',
  due_at DATETIME(6) COMMENT 'next look at its DeleteOnTermination; NULL: none',
  PRIMARY KEY (resource_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Volumes and network interfaces that are or were cutover targets.' COLLATE utf8mb4_bin;

CREATE INDEX named_devices_agent ON named_devices (agent_id);

CREATE INDEX named_devices_due ON named_devices (due_at);

CREATE TABLE primary_places (
  agent_id VARCHAR(64) NOT NULL,
  instance_id VARCHAR(64) NOT NULL,
  configuration JSON NOT NULL COMMENT 'how to launch an instance like it',
  constraints JSON NOT NULL COMMENT 'where each cutover target can follow',
  seen_at DATETIME(6) NOT NULL COMMENT 'time of the look that changed the row',
  PRIMARY KEY (agent_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Launch parameters and network of each primary, as last seen.' COLLATE utf8mb4_bin;

CREATE TABLE orphan_terminations (
  instance_id VARCHAR(64) NOT NULL,
  agent_id VARCHAR(64) COMMENT 'agent that the tags of the instance name',
  pool_id VARCHAR(128),
  decided_at DATETIME(6) NOT NULL,
  reported_at DATETIME(6) COMMENT 'time of its event; NULL: not written yet',
  PRIMARY KEY (instance_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Terminations of orphans: instances of SEF that no other row refers to.' COLLATE utf8mb4_bin;

CREATE INDEX orphan_terminations_reported ON orphan_terminations (reported_at);

CREATE TABLE kept_orphans (
  instance_id VARCHAR(64) NOT NULL,
  agent_id VARCHAR(64) COMMENT 'agent that the tags of the instance name',
  pool_id VARCHAR(128),
  verdict VARCHAR(16) NOT NULL COMMENT 'why the sweep keeps it',
  reason TEXT NOT NULL COMMENT 'the verdict as a sentence',
  found_at DATETIME(6) NOT NULL,
  told_at DATETIME(6) COMMENT 'last event about it; NULL: none yet',
  PRIMARY KEY (instance_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Running instances of SEF that no row refers to and that SEF leaves running.' COLLATE utf8mb4_bin;

CREATE INDEX kept_orphans_agent ON kept_orphans (agent_id);

CREATE TABLE limit_episodes (
  name VARCHAR(64) NOT NULL COMMENT 'setting of the limit, and what it holds back if that is of several kinds',
  agent_id VARCHAR(64) NOT NULL COMMENT 'empty for a limit of the fleet',
  hit_at DATETIME(6) COMMENT 'approximate last time; NULL: never',
  told_at DATETIME(6) COMMENT 'time of the last event; NULL: none',
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (name, agent_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Safety limits, and the last time that each was reached.' COLLATE utf8mb4_bin;

CREATE TABLE step_failures (
  agent_id VARCHAR(64) NOT NULL COMMENT 'empty for a step of no single agent',
  step VARCHAR(64) NOT NULL,
  error VARCHAR(100) NOT NULL COMMENT 'type of the exception',
  seen_at DATETIME(6) COMMENT 'approximate last time',
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (agent_id, step, error)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Steps of the periodic work that an exception ended.' COLLATE utf8mb4_bin;

CREATE INDEX step_failures_seen ON step_failures (seen_at);

CREATE TABLE cutovers (
  id VARCHAR(40) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  epoch BIGINT NOT NULL COMMENT 'epoch of the agent after the promotion',
  incident_id VARCHAR(40) COMMENT 'NULL for a switch without an incident',
  old_instance_id VARCHAR(64),
  new_instance_id VARCHAR(64) NOT NULL,
  pool_id VARCHAR(128) COMMENT 'spot pool of the new primary',
  deadline DATETIME(6) COMMENT 'earliest end of a holder of targets; NULL if none ends',
  is_hurried BOOL NOT NULL COMMENT 'a step had less than 30 s when that end became known: it does not wait',
  status VARCHAR(16) NOT NULL COMMENT 'running, needs_operator, done or superseded; see docs/glossary.md',
  open_agent_id VARCHAR(64) COMMENT 'agent_id while running or needs_operator, else NULL; unique: one per agent',
  due_at DATETIME(6) COMMENT 'next attempt of an unfinished step; NULL when finished',
  started_at DATETIME(6) NOT NULL,
  traffic_moved_at DATETIME(6) COMMENT 'time when all targets had moved',
  looked_at DATETIME(6) COMMENT 'last look at the former primaries and the holders',
  not_running JSON COMMENT 'former primaries that do not run',
  finished_at DATETIME(6),
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (id),
  CONSTRAINT cutovers_once UNIQUE (agent_id, epoch),
  CONSTRAINT cutovers_one_open UNIQUE (open_agent_id),
  CONSTRAINT cutovers_status CHECK (status IN ('running', 'needs_operator', 'done', 'superseded')),
  CONSTRAINT cutovers_open CHECK ((open_agent_id IS NOT NULL) = (status IN ('running', 'needs_operator')))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row for each epoch in which the targets of an agent had to follow its primary.' COLLATE utf8mb4_bin;

CREATE INDEX cutovers_due ON cutovers (due_at);

CREATE TABLE cutover_steps (
  cutover_id VARCHAR(40) NOT NULL,
  position INTEGER NOT NULL,
  kind VARCHAR(20) NOT NULL COMMENT 'see docs/glossary.md',
  target JSON COMMENT 'resource that moves; NULL if there is none',
  status VARCHAR(8) NOT NULL COMMENT 'pending, done, failed or skipped',
  attempts BIGINT NOT NULL,
  not_before DATETIME(6) NOT NULL COMMENT 'earliest next attempt',
  started_at DATETIME(6) COMMENT 'first attempt',
  finished_at DATETIME(6),
  latency_ms BIGINT COMMENT 'from the first attempt to the end of the step',
  ends_at DATETIME(6) COMMENT 'end of the holder of the target; NULL if none is known',
  is_hurried BOOL NOT NULL COMMENT 'less than 30 s were left when that end became known',
  is_guarded BOOL NOT NULL COMMENT 'no promotion asked for it: no target is taken from a strange instance',
  is_waiting BOOL NOT NULL COMMENT 'AWS throttled the last attempt, or it waits on purpose: no time-out',
  taken_from JSON COMMENT 'instance that gave the target, how it had it, and why the target went back',
  error TEXT COMMENT 'result of the last attempt that did not finish the step',
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (cutover_id, position),
  CONSTRAINT cutover_steps_kind CHECK (kind IN ('running', 'webhook-before', 'volume', 'network-interface', 'private-ip', 'register', 'healthy', 'elastic-ip', 'route', 'dns', 'deregister', 'webhook-after')),
  CONSTRAINT cutover_steps_status CHECK (status IN ('pending', 'done', 'failed', 'skipped'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='The steps of a cutover: what was done for each target, and what is left.' COLLATE utf8mb4_bin;

CREATE TABLE target_claims (
  target VARCHAR(320) NOT NULL COMMENT 'kind and name of the target; see sef.failover.cutover.claims',
  agent_id VARCHAR(64) NOT NULL COMMENT 'the one agent that the target belongs to',
  claimed_at DATETIME(6) NOT NULL,
  PRIMARY KEY (target)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Cutover targets that belong to one agent; a target group may belong to several.' COLLATE utf8mb4_bin;

CREATE INDEX target_claims_agent ON target_claims (agent_id);

CREATE TABLE target_looks (
  agent_id VARCHAR(64) NOT NULL,
  due_at DATETIME(6) NOT NULL COMMENT 'time of the next look',
  looked_at DATETIME(6) COMMENT 'time of the last complete look',
  elsewhere JSON COMMENT 'targets that were not with the primary then, with their holders',
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (agent_id)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='When SEF looks next where the targets of an agent are, and what it saw last.' COLLATE utf8mb4_bin;

CREATE INDEX target_looks_due ON target_looks (due_at);

CREATE TABLE traffic_bindings (
  agent_id VARCHAR(64) NOT NULL,
  target VARCHAR(320) NOT NULL COMMENT 'ARN of the group, or zone/name',
  instance_id VARCHAR(64) NOT NULL COMMENT 'primary at which it was seen',
  ports JSON NOT NULL COMMENT 'ports of the primary in the target group',
  addresses JSON NOT NULL COMMENT 'addresses of the primary in the record',
  seen_at DATETIME(6) NOT NULL,
  PRIMARY KEY (agent_id, target)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='How traffic was bound at the last primary of an agent, known after its end.' COLLATE utf8mb4_bin;

CREATE TABLE cutover_bindings (
  agent_id VARCHAR(64) NOT NULL,
  target VARCHAR(64) NOT NULL COMMENT 'such as volume vol-0abc1234',
  instance_id VARCHAR(64) NOT NULL COMMENT 'holder then',
  binding JSON NOT NULL COMMENT 'its interface, device index, private address or device',
  PRIMARY KEY (agent_id, target)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='How the primary of an agent last had each target, for the next primary.' COLLATE utf8mb4_bin;

CREATE TABLE notifications (
  id BIGINT NOT NULL AUTO_INCREMENT,
  thread VARCHAR(160) NOT NULL COMMENT 'incident id; without an incident, event type, agent and matter',
  kind VARCHAR(16) NOT NULL COMMENT 'see docs/notifications.md',
  matter VARCHAR(40) NOT NULL COMMENT 'digest of the kind, the incident or agent, and what it is about',
  incident_id VARCHAR(40),
  agent_id VARCHAR(64),
  severity VARCHAR(8) NOT NULL,
  title VARCHAR(255) NOT NULL,
  body TEXT NOT NULL,
  created_at DATETIME(6) NOT NULL,
  dispatched_at DATETIME(6) COMMENT 'time when its deliveries were created',
  PRIMARY KEY (id),
  CONSTRAINT notifications_once UNIQUE (matter),
  CONSTRAINT notifications_kind CHECK (kind IN ('recommendation', 'detection', 'switch', 'operator', 'cutover', 'outcome', 'alert')),
  CONSTRAINT notifications_severity CHECK (severity IN ('info', 'warning', 'error'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Outbox: notifications about incidents and events.' COLLATE utf8mb4_bin;

CREATE INDEX notifications_incident ON notifications (incident_id, id);

CREATE INDEX notifications_to_dispatch ON notifications (dispatched_at, id);

CREATE TABLE notification_deliveries (
  id BIGINT NOT NULL AUTO_INCREMENT,
  notification_id BIGINT NOT NULL,
  channel VARCHAR(160) NOT NULL COMMENT 'URL of the channel, without secrets',
  thread VARCHAR(160) NOT NULL,
  status VARCHAR(8) NOT NULL COMMENT 'pending, sent or failed',
  attempts BIGINT NOT NULL DEFAULT 0,
  next_at DATETIME(6) NOT NULL COMMENT 'earliest next attempt',
  claimed_until DATETIME(6) COMMENT 'a worker sends it until then; NULL: no worker',
  sent_at DATETIME(6),
  error TEXT COMMENT 'result of the last failed attempt',
  digest BIGINT COMMENT 'id of the first delivery in the digest that it was sent in; NULL: by itself',
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (id),
  CONSTRAINT notification_deliveries_once UNIQUE (notification_id, channel),
  CONSTRAINT notification_deliveries_status CHECK (status IN ('pending', 'sent', 'failed'))
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='One row for each notification and channel of SEF_NOTIFICATION_URLS.' COLLATE utf8mb4_bin;

CREATE INDEX notification_deliveries_due ON notification_deliveries (channel, status, next_at);

CREATE INDEX notification_deliveries_sent ON notification_deliveries (channel, sent_at);

CREATE INDEX notification_deliveries_thread ON notification_deliveries (thread, channel, status);

CREATE TABLE idempotency_keys (
  idempotency_key VARCHAR(255) NOT NULL,
  agent_id VARCHAR(64) NOT NULL,
  `call` VARCHAR(64) NOT NULL COMMENT 'operation that the key belongs to',
  answer JSON COMMENT 'NULL until the effect is committed',
  claimed_until DATETIME(6) COMMENT 'a worker runs it until then; NULL: no worker',
  created_at DATETIME(6) NOT NULL,
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (idempotency_key)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Calls with an Idempotency-Key, and their answers for repeats.' COLLATE utf8mb4_bin;

CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

CREATE TABLE deployment (
  one INTEGER NOT NULL COMMENT 'always 1',
  name VARCHAR(40) NOT NULL,
  PRIMARY KEY (one),
  CONSTRAINT deployment_one CHECK (one = 1)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Name of this SEF, with which it tags its instances.' COLLATE utf8mb4_bin;

CREATE TABLE leases (
  name VARCHAR(64) NOT NULL COMMENT 'id of the job',
  holder VARCHAR(64) NOT NULL COMMENT 'process that runs the job',
  expires_at DATETIME(6) NOT NULL,
  version BIGINT NOT NULL COMMENT 'incremented by each update; a writer compares it with the version it read' DEFAULT 1,
  PRIMARY KEY (name)
) ENGINE=InnoDB CHARSET=utf8mb4 COMMENT='Leases: the process that runs each periodic job.' COLLATE utf8mb4_bin;
