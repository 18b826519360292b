"""The same definitions over Parquet: training sets that see no future, and the check that online equals offline."""
