-- Hires of 2021 for each department and job, by quarter.
SELECT d.department, j.job,
       SUM(CASE WHEN h.hired_at < '2021-04-01' THEN 1 ELSE 0 END) AS q1,
       SUM(CASE WHEN h.hired_at >= '2021-04-01' AND h.hired_at < '2021-07-01' THEN 1 ELSE 0 END) AS q2,
       SUM(CASE WHEN h.hired_at >= '2021-07-01' AND h.hired_at < '2021-10-01' THEN 1 ELSE 0 END) AS q3,
       SUM(CASE WHEN h.hired_at >= '2021-10-01' THEN 1 ELSE 0 END) AS q4
FROM hired_employees h
JOIN departments d ON d.id = h.department_id
JOIN jobs j ON j.id = h.job_id
WHERE h.hired_at >= '2021-01-01' AND h.hired_at < '2022-01-01'
GROUP BY d.department, j.job
ORDER BY d.department, j.job
