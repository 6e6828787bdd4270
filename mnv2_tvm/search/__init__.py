"""Search: space -> XGBoost ranking -> measurement -> records."""
