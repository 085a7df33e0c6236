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
