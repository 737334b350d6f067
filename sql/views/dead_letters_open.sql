-- Refused items that were neither replayed nor dropped yet.
--   refused_at DateTime64(3, 'UTC')
--   reason LowCardinality(String)
--   detail String
--   payload String
--   payload_bytes UInt32
--   buffer LowCardinality(String)
--   segment LowCardinality(String)
--   position UInt32
--   ingested_at DateTime64(3, 'UTC')
SELECT *
FROM dead_letters
WHERE (segment, position) GLOBAL NOT IN (SELECT segment, position FROM dead_letter_marks FINAL)
