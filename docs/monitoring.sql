-- Data quality per day, of the last 30 days that have points: how points came about, and their share of the day.
SELECT
  DATE(p.timestamp) AS day,
  p.data_quality_flag,
  COUNT(*) AS points,
  ROUND(100 * COUNT(*) / d.points, 2) AS percent_of_day
FROM pricing_reports AS p
JOIN (
  SELECT DATE(timestamp) AS day, COUNT(*) AS points
  FROM pricing_reports
  GROUP BY DATE(timestamp)
  ORDER BY day DESC
  LIMIT 30
) AS d ON d.day = DATE(p.timestamp)
GROUP BY DATE(p.timestamp), p.data_quality_flag, d.points
ORDER BY day DESC, p.data_quality_flag;

-- Replica operations, by kind: how many, how long until ready, and what became of them.
SELECT
  replica_type,
  COUNT(*) AS replicas,
  AVG(TIMESTAMPDIFF(SECOND, created_at, ready_at)) AS avg_seconds_to_ready,
  COUNT(promoted_at) AS promoted,
  SUM(status = 'failed') AS failed
FROM replica_instances
GROUP BY replica_type
ORDER BY replica_type;

-- Failover performance, by the signal that was received: how many, how many led to a promotion, and how fast.
SELECT
  signal_type,
  COUNT(*) AS signals,
  SUM(failover_completed) AS completed,
  AVG(failover_time_ms) AS avg_failover_time_ms,
  MAX(failover_time_ms) AS max_failover_time_ms
FROM spot_interruption_events
GROUP BY signal_type
ORDER BY signal_type;

-- Cutovers, by their status: how many, how many were hurried, how long until the new primary had everything, and the
-- steps that fail.
SELECT
  c.status,
  COUNT(*) AS cutovers,
  SUM(c.is_hurried) AS hurried,
  AVG(TIMESTAMPDIFF(MICROSECOND, c.started_at, c.served_at)) / 1000000 AS avg_seconds_to_served,
  COALESCE(SUM(s.failed), 0) AS failed_steps
FROM cutovers AS c
LEFT JOIN (
  SELECT cutover_id, SUM(status = 'failed') AS failed
  FROM cutover_steps
  GROUP BY cutover_id
) AS s ON s.cutover_id = c.id
GROUP BY c.status
ORDER BY c.status;
