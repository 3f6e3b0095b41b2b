"""What the report's pages are drawn with: charts, the lineage graph's layout, templates."""
