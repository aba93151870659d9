"""What both halves share: records, Arrow schemas, the NVTX payload and the hardware table."""
