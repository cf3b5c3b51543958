"""What is measured, against whom, and the last results. Run with: mh bench [NAME]"""
