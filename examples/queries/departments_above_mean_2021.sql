-- Departments that hired more people in 2021 than the mean of all departments, most first.
WITH hires AS (
  SELECT d.id, d.department, COUNT(h.id) AS hired
  FROM departments d
  LEFT JOIN hired_employees h
    ON h.department_id = d.id
   AND h.hired_at >= '2021-01-01' AND h.hired_at < '2022-01-01'
  GROUP BY d.id, d.department
)
SELECT id, department, hired
FROM hires
WHERE hired > (SELECT AVG(hired) FROM hires)
ORDER BY hired DESC, id
