-- For operators who monitor SEF with SQL. All times are UTC.

-- Data quality per day: the number of points with each quality flag, and their share of the day's points.
-- Covers the last 30 days that have points.
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

-- Replica operations by type: the number of replicas, the average time until ready, and the numbers promoted and failed.
SELECT
  replica_type,
  COUNT(*) AS replicas,
  AVG(TIMESTAMPDIFF(SECOND, created_at, ready_at)) AS avg_seconds_to_ready,
  COUNT(promoted_at) AS promoted,
  SUM(status = 'failed') AS failed
FROM replica_instances
GROUP BY replica_type
ORDER BY replica_type;

-- Failover performance by signal type: the number of signals, the number that led to a promotion, and the failover time.
SELECT
  signal_type,
  COUNT(*) AS signals,
  SUM(failover_completed) AS completed,
  AVG(failover_time_ms) AS avg_failover_time_ms,
  MAX(failover_time_ms) AS max_failover_time_ms
FROM spot_interruption_events
GROUP BY signal_type
ORDER BY signal_type;

-- Cutovers by status: the number of cutovers, the number that had less than 30 seconds (hurried), the average time
-- until all targets had moved to the new primary, and the number of failed steps.
SELECT
  c.status,
  COUNT(*) AS cutovers,
  SUM(c.is_hurried) AS hurried,
  AVG(TIMESTAMPDIFF(MICROSECOND, c.started_at, c.traffic_moved_at)) / 1000000 AS avg_seconds_to_served,
  COALESCE(SUM(s.failed), 0) AS failed_steps
FROM cutovers AS c
LEFT JOIN (
  SELECT cutover_id, SUM(status = 'failed') AS failed
  FROM cutover_steps
  GROUP BY cutover_id
) AS s ON s.cutover_id = c.id
GROUP BY c.status
ORDER BY c.status;
